"""Simulated enclaves in Gramine's library OS without SGX, which creates no quotes.

An attested server (`sealserve.attester`) attests itself: the launcher relays simulated quotes to it, and Gramine opens
the sealed files with the key that the server writes to ``/dev/attestation/keys``. For all other servers, the launcher
attests, and passes the key to Gramine.

The launcher changes the signed manifest, and passes the result in memory. The measurement in the quotes is the signed
manifest's.

Source: Gramine 1.9, ``libos/src/fs/dev/attestation.c`` (``keys`` exists without SGX, ``quote`` does not).
"""

import os
import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tomli_w

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.environment import DEVICE_VARIABLE, GRAMINE_DEVICE
from sealserve.enclave.findings import Danger
from sealserve.enclave.launch.gramine_sgx import LOADER_ENVIRONMENT, find_loader
from sealserve.enclave.launch.server_process import SignalRelay, start_server, until_stopped
from sealserve.enclave.measurement import SignedEnclave
from sealserve.enclave.relay_address import RELAY_VARIABLE, RelayAddress
from sealserve.enclave.simulated.inspection import forbid_core_dumps, forbid_inspection
from sealserve.enclave.simulated.launcher import CONSUMED, load_simulated, log_step, provision, quote_for
from sealserve.enclave.simulated.manifest_in_memory import manifest_in_memory
from sealserve.enclave.simulated.quote_relay import QuoteRelay
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

    Gramine checks the trusted files when they are opened, and opens the sealed files itself. Like every simulation,
    this protects nothing from this machine's root.

    Raises:
        InputError: `enclave.without-gramine`: The enclave was built without Gramine's files in the inventory.
        SealserveError: The errors of `run_enclave`.
    """
    here, socket = Path(os.path.abspath(bundle)), Path(os.path.abspath(quoting_socket))  # noqa: PTH100  # keep links

    def launch(relay: SignalRelay) -> int:
        # Verify the enclave. Gramine itself compares the trusted files when the server opens them.
        forbid_core_dumps()
        enclave = load_simulated(here, name, dangerous, check_files=False)
        if enclave.manifest.loader.entrypoint is None:
            raise EnclaveCode.WITHOUT_GRAMINE.error(
                f"The enclave {name!r} cannot run in Gramine: it was built without Gramine's files.",
                hint="Install Gramine, create an inventory with `sealserve enclave inventory --output FILE`, and build "
                "the enclave again with `--inventory FILE`.",
            )
        loader = find_loader("gramine-direct")
        forbid_inspection()
        # An attested server gets quotes from the relay, and its key from the broker.
        if DEVICE_VARIABLE in enclave.manifest.loader.env:
            with QuoteRelay(partial(quote_for, enclave, socket)) as quotes:
                manifest = _attested_manifest(enclave.manifest_bytes, quotes.address)
                return _serve(enclave, here, loader, manifest, relay, started=quotes.start)
        # Otherwise attest to the broker here, and put the key into a manifest that exists in memory only.
        with provision(enclave, here, socket, connect_timeout, broker_timeout) as key:
            manifest = _direct_manifest(enclave.manifest_bytes, key)
        return _serve(enclave, here, loader, manifest, relay)

    return until_stopped(launch)


def _serve(
    enclave: SignedEnclave,
    bundle: Path,
    loader: str,
    content: bytes,
    relay: SignalRelay,
    *,
    started: Callable[[], object] | None = None,
) -> int:
    """Run the server in Gramine until it ends. Then wipe the manifest, which may contain the key.

    Args:
        enclave: The loaded enclave.
        bundle: The release's folder.
        loader: The path of gramine-direct.
        content: The manifest for gramine-direct.
        relay: Passes signals on to the server.
        started: Called after the start.
    """
    entrypoint = enclave.manifest.loader.entrypoint
    with manifest_in_memory(enclave.name, content) as manifest:
        log_step("server", program=loader, library_os=entrypoint.uri if entrypoint else None)
        start = partial(
            start_server,
            loader,
            [loader, str(manifest.application)],
            LOADER_ENVIRONMENT,
            folder=bundle,
            inherited=(manifest.descriptor,),
        )
        status = relay.run(start, started=started)
        log_step("ended", status=status)
        return status


def _attested_manifest(manifest: bytes, quotes: RelayAddress) -> bytes:
    """Return the manifest for an attested server: with Gramine's device, and the relay in place of its quotes."""
    data = tomllib.loads(manifest.decode())
    data["loader"]["env"] |= {DEVICE_VARIABLE: GRAMINE_DEVICE, RELAY_VARIABLE: quotes.variable}
    return tomli_w.dumps(data).encode()


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
