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
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.findings import Danger
from sealserve.enclave.launch.broker_addresses import broker_addresses
from sealserve.enclave.launch.server_process import (
    SignalRelay,
    StoppedBySignal,
    set_parent_death_signal,
    start_server,
    until_stopped,
)
from sealserve.enclave.launch.supervisor import supervise
from sealserve.enclave.launch.trusted_files import check_trusted_files, read_trusted_file
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.measurement import SignedEnclave, load_enclave
from sealserve.enclave.simulated import provisioning
from sealserve.enclave.simulated.inspection import forbid_core_dumps, forbid_inspection
from sealserve.enclave.simulated.private_memory import PrivateMemory, private_memory
from sealserve.enclave.simulated.sealed_mounts import open_mounts, sealed_size
from sealserve.secret import SecretBytes
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.quoting import request_quote
from sealserve.terms import PlatformKind

LOGGER: Final = logging.getLogger(__name__)
# x87, SSE, AVX and AVX-512, as a current server processor offers them in XCR0.
PLATFORM_XFRM: Final = 0xE7
# What the provisioning library removes from the environment, and what loads it.
CONSUMED: Final = frozenset({"LD_PRELOAD", "SECRET_PROVISION_CONSTRUCTOR"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedEnclave:
    """The runtime of simulated enclaves, which starts an enclave again when its server crashes.

    Args:
        quoting_socket: Where the simulated quoting enclave answers.
        attempts: The maximum number of starts.
        serves: Whether the enclave's server answers; needed for several starts. A server that crashes before it
            answered is not started again.
    """

    quoting_socket: Path
    attempts: int = 1
    serves: Callable[[], bool] | None = None

    def run(self, bundle: Path, name: str, *, dangerous: Collection[Danger]) -> int:
        """Run an enclave; see `Runtime.run`, and `run_enclave` for the errors."""
        launch = partial(run_enclave, bundle, name, quoting_socket=self.quoting_socket, dangerous=dangerous)
        if self.attempts == 1 or self.serves is None:
            return launch()
        try:
            return supervise(partial(launch, exit_with_parent=True), attempts=self.attempts, serves=self.serves)
        except StoppedBySignal as stop:
            return stop.exit_status


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
        InputError: `enclave.place`: ``bundle`` lies in the manifest's private folder.
        VerificationError: `enclave.not-simulated`: The enclave is for SGX.
        SealserveError: What the steps raise: see `load_enclave`, `check_trusted_files`, `private_memory`,
            `provisioning`, `request_quote`, `open_mounts`, `start_server`.
    """
    here, socket = Path(os.path.abspath(bundle)), Path(os.path.abspath(quoting_socket))  # noqa: PTH100  # keep links
    parent = os.getppid()

    def launch(relay: SignalRelay) -> int:
        if exit_with_parent:
            _end_with(parent)
        # Protect this process before it holds a secret.
        forbid_core_dumps()
        # Verify the enclave and the files that it trusts (steps 1 and 2).
        enclave = load_simulated(here, name, dangerous)
        # Obtain private memory (3), which is wiped at the end (9).
        needed = sealed_size(enclave.manifest, here)
        with private_memory(enclave.manifest.private_root, needed=needed) as memory:
            if exit_with_parent:
                _end_with(parent)  # entering a user namespace has reset the signal
            forbid_inspection()
            log_step("private-memory", method=memory.method, folder=memory.root)
            # Attest the enclave to the broker, and open the release with its key (4 to 7).
            with provision(enclave, here, socket, connect_timeout, broker_timeout) as key:
                opened = open_mounts(enclave.manifest, here, memory, key)
            log_step("mounts", files=opened.files, bytes=opened.size, key="wiped")
            # Run the server until it ends (8).
            return _serve(enclave.manifest, memory, relay)

    return until_stopped(launch)


def load_simulated(
    bundle: Path, name: str, dangerous: Collection[Danger] = (), *, check_files: bool = True
) -> SignedEnclave:
    """Verify an enclave of a release, and make sure that it can run here.

    Args:
        bundle: The release's folder; absolute.
        name: The enclave's name.
        dangerous: The classes of insecure settings that are allowed in the manifest.
        check_files: Whether to compare the trusted files with their digests. Gramine does that itself.

    Raises:
        VerificationError: `enclave.not-simulated`: The enclave is for SGX.
        InputError: `enclave.place`: ``bundle`` lies in the manifest's private folder.
        SealserveError: What `load_enclave` and `check_trusted_files` raise.
    """
    LOGGER.warning("simulated enclave %s: simulation protects nothing from this machine's root", name)
    enclave = load_enclave(bundle, name, dangerous=dangerous)
    manifest, sigstruct = enclave.manifest, enclave.sigstruct
    environment = manifest.loader.env
    if environment["SEALSERVE_PLATFORM"] != PlatformKind.SIMULATED:
        raise EnclaveCode.NOT_SIMULATED.error(
            f"The enclave {name!r} is for the platform {environment['SEALSERVE_PLATFORM']!r}; only a simulated one "
            "runs here.",
            hint="Start it with gramine-sgx on an SGX machine.",
        )
    if bundle.is_relative_to(manifest.private_root):
        raise EnclaveCode.PLACE.error(
            f"The release is in {bundle}, and {manifest.private_root} is where the enclave has its private files.",
            hint="Put the release elsewhere.",
        )
    log_step(
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
        log_step("trusted-files", verified=check_trusted_files(manifest, bundle))
    return enclave


def provision(
    enclave: SignedEnclave, bundle: Path, quoting_socket: Path, connect_timeout: float, broker_timeout: float
) -> SecretBytes:
    """Attest a loaded enclave to the first broker that accepts a connection, and return the release's key.

    Args:
        enclave: From `load_simulated`.
        bundle: The release's folder.
        quoting_socket: Where the simulated quoting enclave answers.
        connect_timeout: Seconds to wait for each broker's connection.
        broker_timeout: Seconds to wait for each of the broker's answers.

    Raises:
        SealserveError: What `provisioning` and `request_quote` raise.
    """
    environment = enclave.manifest.loader.env
    inside = environment["SECRET_PROVISION_CA_CHAIN_PATH"]
    broker_ca = read_trusted_file(enclave.manifest, bundle, bundle / (enclave.manifest.host_path(inside) or inside))
    brokers = broker_addresses(environment["SECRET_PROVISION_SERVERS"])
    broker = provisioning.connect(brokers, timeout=connect_timeout)
    log_step("broker", connected=broker)
    key = provisioning.fetch_key(
        broker,
        broker_ca=broker_ca,
        quote_for=partial(_quote, enclave, quoting_socket),
        now=datetime.now(UTC),
        timeout=broker_timeout,
    )
    log_step("key", key_name=environment["SECRET_PROVISION_SET_KEY"], bytes=len(key))
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
    log_step("quote", bytes=len(quote), report_data=report_data[:32].hex())
    return quote


def _serve(manifest: EnclaveManifest, memory: PrivateMemory, relay: SignalRelay) -> int:
    argv = [memory.translate(argument) for argument in manifest.loader.argv]
    environment = {
        variable: memory.translate(value) for variable, value in manifest.loader.env.items() if variable not in CONSUMED
    }
    log_step("server", program=manifest.libos.entrypoint, arguments=len(argv), environment=len(environment))
    status = relay.run(partial(start_server, manifest.libos.entrypoint, argv, environment))
    log_step("ended", status=status)
    return status


def _end_with(parent: int) -> None:
    set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        raise StoppedBySignal(signal.SIGTERM)


def log_step(step: str, **evidence: object) -> None:
    """Log a step with its evidence, as `cluster.launch_log` reads it."""
    LOGGER.info("step=%s %s", step, " ".join(f"{field}={value}" for field, value in evidence.items()))
