"""Simulated enclaves in Gramine's library OS without SGX. The launcher attests, because gramine-direct cannot."""

import os
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tomli_w

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.environment import DEVICE_VARIABLE
from sealserve.enclave.findings import Danger
from sealserve.enclave.launch.gramine_sgx import LOADER_ENVIRONMENT, find_loader
from sealserve.enclave.launch.server_process import SignalRelay, start_server, until_stopped
from sealserve.enclave.simulated.inspection import forbid_core_dumps, forbid_inspection
from sealserve.enclave.simulated.launcher import CONSUMED, load_simulated, log_step, provision
from sealserve.enclave.simulated.manifest_in_memory import manifest_in_memory
from sealserve.secret import SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GramineDirect:
    """The runtime of simulated enclaves in Gramine's library OS.

    Args:
        quoting_socket: The Unix socket of the simulated quoting enclave.
    """

    quoting_socket: Path

    def run(self, bundle: Path, name: str, *, dangerous: Collection[Danger]) -> int:
        """Run an enclave; see `Runtime.run`, and `run_gramine_direct` for the errors."""
        return run_gramine_direct(bundle, name, quoting_socket=self.quoting_socket, dangerous=dangerous)


def run_gramine_direct(
    bundle: Path,
    name: str,
    *,
    quoting_socket: Path,
    connect_timeout: float = 10.0,
    broker_timeout: float = 60.0,
    dangerous: Collection[Danger] = (),
) -> int:
    """Start a simulated enclave whose server runs in Gramine's library OS without SGX; otherwise as `run_enclave`.

    Gramine checks the trusted files when they are opened, and opens the sealed files itself. Without SGX, Gramine
    cannot attest. So the launcher attests, and passes the key in a separate manifest that exists in memory only (see
    `manifest_in_memory`). Like every simulation, it protects nothing from this machine's root.

    Raises:
        InputError: `enclave.attests-itself`: The enclave attests itself.
        InputError: `enclave.without-gramine`: The enclave was built without Gramine's files in the inventory.
        SealserveError: The errors of `run_enclave`.
    """
    here, socket = Path(os.path.abspath(bundle)), Path(os.path.abspath(quoting_socket))  # noqa: PTH100  # keep links

    def launch(relay: SignalRelay) -> int:
        # Verify the enclave. Gramine itself compares the trusted files when the server opens them.
        forbid_core_dumps()
        enclave = load_simulated(here, name, dangerous, check_files=False)
        if DEVICE_VARIABLE in enclave.manifest.loader.env:
            raise EnclaveCode.ATTESTS_ITSELF.error(
                f"The enclave {name!r} cannot run in gramine-direct: it attests itself, and gramine-direct creates no "
                "quotes.",
                hint="Run it with the simulated enclave, or build one with server.dangerous_owner_tls_key = true.",
            )
        if enclave.manifest.loader.entrypoint is None:
            raise EnclaveCode.WITHOUT_GRAMINE.error(
                f"The enclave {name!r} cannot run in Gramine: it was built without Gramine's files.",
                hint="Install Gramine, create an inventory with `sealserve enclave inventory --output FILE`, and build "
                "the enclave again with `--inventory FILE`.",
            )
        loader = find_loader("gramine-direct")
        # Attest it to the broker, and put the key into a manifest that exists in memory only.
        forbid_inspection()
        with provision(enclave, here, socket, connect_timeout, broker_timeout) as key:
            direct = _direct_manifest(enclave.manifest_bytes, key)
        # Run the server in Gramine until it ends. Then wipe the manifest that contains the key.
        with manifest_in_memory(name, direct) as manifest:
            log_step("server", program=loader, library_os=enclave.manifest.loader.entrypoint.uri)
            start = partial(
                start_server,
                loader,
                [loader, str(manifest.application)],
                LOADER_ENVIRONMENT,
                folder=here,
                inherited=(manifest.descriptor,),
            )
            status = relay.run(start)
            log_step("ended", status=status)
            return status

    return until_stopped(launch)


def _direct_manifest(manifest: bytes, key: SecretBytes) -> bytes:
    """Return the manifest for gramine-direct: with the key, and without the settings of the provisioning library."""
    data = tomllib.loads(manifest.decode())
    name = data["loader"]["env"]["SECRET_PROVISION_SET_KEY"]
    data["loader"]["env"] = {
        variable: value
        for variable, value in data["loader"]["env"].items()
        if variable not in CONSUMED and not variable.startswith("SECRET_PROVISION_")
    }
    data["fs"]["insecure__keys"] = {name: key.reveal().hex()}
    return tomli_w.dumps(data).encode()
