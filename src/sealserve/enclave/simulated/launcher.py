"""The loader of simulated enclaves: it does what gramine-sgx and its provisioning library do, without an enclave.

The steps, in this order:

 1. manifest and SIGSTRUCT are read; the signature verifies, and the measurement is the signed one (as EINIT checks);
 2. the trusted files are as measured;
 3. private memory is obtained, with room for what is sealed;
 4. the first broker of the measured list accepts a connection;
 5. an ephemeral key is made, and the quoting enclave quotes it (report: measurement, signer, attributes, versions);
 6. the broker's certificate verifies, and it releases the key;
 7. the encrypted mounts are opened into the private memory, and the key is wiped;
 8. the server runs with exactly the measured arguments and environment, until it ends or is asked to;
 9. the private memory is wiped.

Each step is logged with its evidence, as ``step=NAME field=value ...``. No secret is.
"""

import logging
import os
import signal
import tomllib
from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import tomli_w

from sealserve.enclave.findings import Danger
from sealserve.enclave.launch.gramine_sgx import LOADER_ENVIRONMENT, find_loader
from sealserve.enclave.launch.server_process import (
    SignalRelay,
    StoppedBySignal,
    relayed_signals,
    set_parent_death_signal,
    start_server,
)
from sealserve.enclave.launch.trusted_files import check_trusted_files, read_trusted_file
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.measurement import SignedEnclave, load_enclave
from sealserve.enclave.simulated import provisioning
from sealserve.enclave.simulated.inspection import forbid_core_dumps, forbid_inspection
from sealserve.enclave.simulated.manifest_in_memory import manifest_in_memory
from sealserve.enclave.simulated.private_memory import PrivateMemory, private_memory
from sealserve.enclave.simulated.sealed_mounts import open_mounts, sealed_size
from sealserve.errors import InputError, VerificationError
from sealserve.secret import SecretBytes
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.quoting import request_quote
from sealserve.terms import PlatformKind

LOGGER: Final = logging.getLogger(__name__)
# x87, SSE, AVX and AVX-512, as a current server processor offers them in XCR0.
PLATFORM_XFRM: Final = 0xE7
# What the provisioning library removes from the environment, and what loads it.
_CONSUMED: Final = frozenset({"LD_PRELOAD", "SECRET_PROVISION_CONSTRUCTOR"})


class EnclavePlaceError(InputError):
    """The release lies where the enclave's private files will be, and would be hidden by them."""

    code = "enclave.place"


class EnclaveWithoutGramineError(InputError):
    """The enclave cannot run in Gramine: its manifest has no library OS."""

    code = "enclave.without-gramine"


class EnclaveNotSimulatedError(VerificationError):
    """The manifest is for SGX."""

    code = "enclave.not-simulated"


def run_enclave(
    bundle: Path,
    name: str,
    *,
    quoting_socket: Path,
    exit_with_parent: bool = False,
    connect_timeout: float = 10.0,
    broker_timeout: float = 60.0,
    dangerous: Collection[Danger] = (),
) -> int:
    """Start a simulated enclave, wait for its end, and return its server's exit status.

    To be called in the main thread of a process of its own, which has started no other thread: the process moves into
    a mount namespace, and does not come out again. SIGTERM, SIGINT and SIGHUP are passed on to the server.

    Args:
        bundle: The release's folder, with ``enclave/`` in it.
        name: The enclave's name.
        quoting_socket: Where the simulated quoting enclave answers.
        exit_with_parent: Whether to end (as by SIGTERM) when the parent process does.
        connect_timeout: Seconds to wait for each broker's connection.
        broker_timeout: Seconds to wait for each of the broker's answers.
        dangerous: The classes of insecure settings that are allowed in the manifest.

    Returns:
        The server's exit status; 128 + N if signal N ended it, or asked the launcher to end before it ran.

    Raises:
        EnclavePlaceError: ``bundle`` lies in the manifest's private folder.
        EnclaveNotSimulatedError: The enclave is for SGX.
        SealserveError: What the steps raise: see `load_enclave`, `check_trusted_files`, `private_memory`,
            `provisioning`, `request_quote`, `open_mounts`, `start_server`.
    """
    here, socket = Path(os.path.abspath(bundle)), Path(os.path.abspath(quoting_socket))  # noqa: PTH100  # keep links
    parent = os.getppid()
    with relayed_signals() as relay:
        try:
            if exit_with_parent:
                _end_with(parent)
            forbid_core_dumps()
            enclave = _load(here, name, dangerous)
            needed = sealed_size(enclave.manifest, here)
            with private_memory(enclave.manifest.private_root, needed=needed) as memory:
                if exit_with_parent:
                    _end_with(parent)  # a user namespace, if it came to that, has reset it
                forbid_inspection()
                _step("private-memory", way=memory.way, folder=memory.root)
                with _provision(enclave, here, socket, connect_timeout, broker_timeout) as key:
                    opened = open_mounts(enclave.manifest, here, memory, key)
                _step("mounts", files=opened.files, bytes=opened.size, key="wiped")
                return _serve(enclave.manifest, memory, relay)
        except StoppedBySignal as stop:
            _step("stopped", status=stop.exit_status)
            return stop.exit_status


def run_gramine_direct(
    bundle: Path,
    name: str,
    *,
    quoting_socket: Path,
    connect_timeout: float = 10.0,
    broker_timeout: float = 60.0,
    dangerous: Collection[Danger] = (),
) -> int:
    """Start a simulated enclave whose server runs in Gramine's library OS, without SGX; else as `run_enclave`.

    Gramine checks the trusted files as they are opened, and opens the sealed ones itself. There is nothing that it
    could attest, so the launcher does that, and hands over the key in a manifest of its own, which is never in a folder
    (see `manifest_in_memory`). As everything simulated, it protects nothing from this machine's root.

    Raises:
        EnclaveWithoutGramineError: The enclave was built without Gramine's files in the inventory.
        SealserveError: As `run_enclave`.
    """
    here, socket = Path(os.path.abspath(bundle)), Path(os.path.abspath(quoting_socket))  # noqa: PTH100  # keep links
    with relayed_signals() as relay:
        try:
            forbid_core_dumps()
            enclave = _load(here, name, dangerous, check_files=False)
            if enclave.manifest.loader.entrypoint is None:
                raise EnclaveWithoutGramineError(
                    f"The enclave {name!r} was built without Gramine's files.",
                    hint="Install Gramine, take an inventory, and build it again with `--inventory`.",
                )
            loader = find_loader("gramine-direct")
            forbid_inspection()
            with _provision(enclave, here, socket, connect_timeout, broker_timeout) as key:
                direct = _direct_manifest(enclave.manifest_bytes, key)
            with manifest_in_memory(name, direct) as manifest:
                _step("server", program=loader, library_os=enclave.manifest.loader.entrypoint.uri)
                start = partial(
                    start_server,
                    loader,
                    [loader, str(manifest.application)],
                    LOADER_ENVIRONMENT,
                    folder=here,
                    inherited=(manifest.descriptor,),
                )
                status = relay.run(start)
                _step("ended", status=status)
                return status
        except StoppedBySignal as stop:
            _step("stopped", status=stop.exit_status)
            return stop.exit_status


def _direct_manifest(manifest: bytes, key: SecretBytes) -> bytes:
    """Return the manifest for gramine-direct: with the key in it, and without what would ask for it."""
    data = tomllib.loads(manifest.decode())
    name = data["loader"]["env"]["SECRET_PROVISION_SET_KEY"]
    data["loader"]["env"] = {
        variable: value
        for variable, value in data["loader"]["env"].items()
        if variable not in _CONSUMED and not variable.startswith("SECRET_PROVISION_")
    }
    data["fs"]["insecure__keys"] = {name: key.reveal().hex()}
    return tomli_w.dumps(data).encode()


def _load(bundle: Path, name: str, dangerous: Collection[Danger] = (), *, check_files: bool = True) -> SignedEnclave:
    LOGGER.warning("simulated enclave %s: simulation protects nothing from this machine's root", name)
    enclave = load_enclave(bundle, name, dangerous=dangerous)
    manifest, sigstruct = enclave.manifest, enclave.sigstruct
    environment = manifest.loader.env
    if environment["SEALSERVE_PLATFORM"] != PlatformKind.SIMULATED:
        raise EnclaveNotSimulatedError(
            f"The enclave {name!r} is for the platform {environment['SEALSERVE_PLATFORM']!r}; only a simulated one "
            "runs here.",
            hint="Start it with gramine-sgx on an SGX machine.",
        )
    if bundle.is_relative_to(manifest.private_root):
        raise EnclavePlaceError(
            f"The release is in {bundle}, and {manifest.private_root} is where the enclave has its private files.",
            hint="Put the release elsewhere.",
        )
    _step(
        "measured",
        enclave=name,
        mr_enclave=sigstruct.mr_enclave.hex(),
        mr_signer=sigstruct.mr_signer.hex(),
        isv_prod_id=sigstruct.isv_prod_id,
        isv_svn=sigstruct.isv_svn,
        debug=sigstruct.attributes.debug,
        release=environment["SEALSERVE_RELEASE_ID"],
    )
    if check_files:
        _step("trusted-files", verified=check_trusted_files(manifest, bundle))
    return enclave


def _provision(
    enclave: SignedEnclave, bundle: Path, quoting_socket: Path, connect_timeout: float, broker_timeout: float
) -> SecretBytes:
    environment = enclave.manifest.loader.env
    inside = environment["SECRET_PROVISION_CA_CHAIN_PATH"]
    broker_ca = read_trusted_file(enclave.manifest, bundle, bundle / (enclave.manifest.host_path(inside) or inside))
    brokers = provisioning.servers(environment["SECRET_PROVISION_SERVERS"])
    broker = provisioning.connect(brokers, timeout=connect_timeout)
    _step("broker", connected=broker)
    key = provisioning.fetch_key(
        broker,
        broker_ca=broker_ca,
        quote_for=partial(_quote, enclave, quoting_socket),
        now=datetime.now(UTC),
        timeout=broker_timeout,
    )
    _step("key", key_name=environment["SECRET_PROVISION_SET_KEY"], bytes=len(key))
    return key


def _quote(enclave: SignedEnclave, quoting_socket: Path, report_data: bytes) -> bytes:
    sigstruct = enclave.sigstruct
    report = EnclaveReport(
        attributes=sigstruct.launch_attributes(PLATFORM_XFRM),
        mr_enclave=sigstruct.mr_enclave,
        mr_signer=sigstruct.mr_signer,
        isv_prod_id=sigstruct.isv_prod_id,
        isv_svn=sigstruct.isv_svn,
        misc_select=sigstruct.misc_select,
        report_data=report_data,
    )
    quote = request_quote(quoting_socket, report)
    _step("quote", bytes=len(quote), report_data=report_data[:32].hex())
    return quote


def _serve(manifest: EnclaveManifest, memory: PrivateMemory, relay: SignalRelay) -> int:
    argv = [memory.translate(argument) for argument in manifest.loader.argv]
    environment = {
        variable: memory.translate(value)
        for variable, value in manifest.loader.env.items()
        if variable not in _CONSUMED
    }
    _step("server", program=manifest.libos.entrypoint, arguments=len(argv), environment=len(environment))
    status = relay.run(partial(start_server, manifest.libos.entrypoint, argv, environment))
    _step("ended", status=status)
    return status


def _end_with(parent: int) -> None:
    set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        raise StoppedBySignal(signal.SIGTERM)


def _step(step: str, **evidence: object) -> None:
    LOGGER.info("step=%s %s", step, " ".join(f"{field}={value}" for field, value in evidence.items()))
