"""The loader of simulated enclaves. It does the work of gramine-sgx and its provisioning library, without an enclave.

The steps, in this order:

 1. The manifest and SIGSTRUCT are read. The signature verifies, and the measurement matches it (as EINIT checks).
 2. The trusted files match their measured digests.
 3. Private memory is obtained, with enough space for the sealed files.
 4. The first available broker of the measured list accepts a connection.
 5. An ephemeral key is created, and the quoting enclave quotes it (report: measurement, signer, attributes, versions).
 6. The broker's certificate verifies, and the broker releases the key.
 7. The encrypted mounts are decrypted into the private memory, and the key is wiped.
 8. The server runs with exactly the measured arguments and environment, until it ends or a signal stops it.
 9. The private memory is wiped.

An attested server (`sealserve.attester`) does steps 4 to 6 itself, over the device of `attestation_device`. Its process
starts after step 3. The launcher decrypts the release only after this process wrote the key.

Each step is logged with its evidence, as ``step=NAME field=value ...``. The log contains no secret.
"""

import logging
import os
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.environment import BROKER_CA_FILE, CA_VARIABLE, DEVICE_VARIABLE
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
from sealserve.enclave.simulated.attestation_device import SimulatedDevice
from sealserve.enclave.simulated.inspection import forbid_core_dumps, forbid_inspection
from sealserve.enclave.simulated.private_memory import PrivateMemory, private_memory
from sealserve.enclave.simulated.sealed_mounts import open_mounts, sealed_size
from sealserve.secret import SecretBytes
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.quoting import request_quote
from sealserve.terms import PlatformKind

LOGGER: Final = logging.getLogger(__name__)
# The features x87, SSE, AVX and AVX-512, which a current server processor offers in XCR0.
PLATFORM_XFRM: Final = 0xE7
# Variables that the provisioning library removes from the environment, and the variable that loads the library.
CONSUMED: Final = frozenset({"LD_PRELOAD", "SECRET_PROVISION_CONSTRUCTOR"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedEnclave:
    """The runtime of simulated enclaves. It starts an enclave again when its server crashes.

    Args:
        quoting_socket: The Unix socket of the simulated quoting enclave.
        attempts: The maximum number of starts.
        serves: Returns whether the enclave's server answers; required for more than one start. A server that crashes
            before its first answer is not started again.
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

    Call it in the main thread of a separate process that has started no other thread: the process moves into a mount
    namespace, and cannot leave it. SIGTERM, SIGINT and SIGHUP are passed on to the server.

    Args:
        bundle: The release's folder, with ``enclave/`` in it.
        name: The enclave's name.
        quoting_socket: The Unix socket of the simulated quoting enclave.
        exit_with_parent: Whether to end (as by SIGTERM) when the parent process ends.
        connect_timeout: Maximum seconds to wait for a connection to each broker.
        broker_timeout: Maximum seconds to wait for each of the broker's answers.
        dangerous: The classes of insecure settings that are allowed in the manifest.

    Returns:
        The server's exit status; 128 + N if signal N ended it, or stopped the launcher before the server ran.

    Raises:
        InputError: `enclave.place`: ``bundle`` is inside the manifest's private folder.
        VerificationError: `enclave.not-simulated`: The enclave is for SGX.
        SealserveError: The errors of the steps: see `load_enclave`, `check_trusted_files`, `private_memory`,
            `provisioning`, `request_quote`, `open_mounts`, `start_server`.
    """
    here, socket = Path(os.path.abspath(bundle)), Path(os.path.abspath(quoting_socket))  # noqa: PTH100  # keep links
    parent = os.getppid()

    def launch(relay: SignalRelay) -> int:
        if exit_with_parent:
            _end_with(parent)
        # Protect this process from inspection before it holds a secret.
        forbid_core_dumps()
        # Verify the enclave and the files that it trusts (steps 1 and 2).
        enclave = load_simulated(here, name, dangerous)
        # Obtain private memory (3), which is wiped at the end (9).
        needed = sealed_size(enclave.manifest, here)
        with private_memory(enclave.manifest.private_root, needed=needed) as memory:
            if exit_with_parent:
                _end_with(parent)  # entering a user namespace has reset the parent-death signal
            forbid_inspection()
            log_step("private-memory", method=memory.method, folder=memory.root)
            # An attested server attests itself, through a device (4 to 8).
            if (device := enclave.manifest.loader.env.get(DEVICE_VARIABLE)) is not None:
                place = Path(memory.translate(device))
                attesting = _Attesting(enclave=enclave, bundle=here, quoting_socket=socket, memory=memory, place=place)
                return attesting.serve(relay)
            # Attest the enclave to the broker, and decrypt the release with its key (4 to 7).
            with provision(enclave, here, socket, connect_timeout, broker_timeout) as key:
                opened = open_mounts(enclave.manifest, here, memory, key)
            log_step("mounts", files=opened.files, bytes=opened.size, key="wiped")
            # Run the server until it ends (8).
            return _serve(enclave.manifest, memory, relay)

    return until_stopped(launch)


def load_simulated(
    bundle: Path, name: str, dangerous: Collection[Danger] = (), *, check_files: bool = True
) -> SignedEnclave:
    """Verify an enclave of a release, and check that it can run on this machine.

    Args:
        bundle: The release's folder; absolute.
        name: The enclave's name.
        dangerous: The classes of insecure settings that are allowed in the manifest.
        check_files: Whether to compare the trusted files with their digests. Gramine compares them itself.

    Raises:
        VerificationError: `enclave.not-simulated`: The enclave is for SGX.
        InputError: `enclave.place`: ``bundle`` is inside the manifest's private folder.
        UnavailableError: `enclave.cpu-feature`: The enclave requires a feature that the simulated platform lacks.
        SealserveError: The errors of `load_enclave` and `check_trusted_files`.
    """
    LOGGER.warning("simulated enclave %s: simulation protects nothing from this machine's root", name)
    enclave = load_enclave(bundle, name, dangerous=dangerous)
    manifest, sigstruct = enclave.manifest, enclave.sigstruct
    environment = manifest.loader.env
    if environment["SEALSERVE_PLATFORM"] != PlatformKind.SIMULATED:
        raise EnclaveCode.NOT_SIMULATED.error(
            f"The enclave {name!r} cannot run on the simulated platform: it was built for the platform "
            f"{environment['SEALSERVE_PLATFORM']!r}.",
            hint="Start it with gramine-sgx on an SGX machine.",
        )
    if bundle.is_relative_to(manifest.private_root):
        raise EnclaveCode.PLACE.error(
            f"The release cannot be in {bundle}: the enclave mounts its private files at {manifest.private_root}, "
            "which would hide it.",
            hint=f"Move the release to a folder outside of {manifest.private_root}.",
        )
    if missing := sigstruct.missing_features(PLATFORM_XFRM):
        raise EnclaveCode.CPU_FEATURE.error(
            f"The enclave {name!r} cannot start: it requires {', '.join(missing)}, which the simulated platform lacks.",
            hint="Remove the feature from enclave.required_cpu_features, or run the enclave on SGX.",
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
        enclave: The enclave that `load_simulated` returned.
        bundle: The release's folder.
        quoting_socket: The Unix socket of the simulated quoting enclave.
        connect_timeout: Maximum seconds to wait for a connection to each broker.
        broker_timeout: Maximum seconds to wait for each of the broker's answers.

    Raises:
        SealserveError: The errors of `provisioning` and `request_quote`.
    """
    environment = enclave.manifest.loader.env
    broker_ca, broker = connect_broker(enclave, bundle, connect_timeout)
    key = provisioning.fetch_key(
        broker,
        broker_ca=broker_ca,
        quote_for=partial(quote_for, enclave, quoting_socket),
        now=datetime.now(UTC),
        timeout=broker_timeout,
    )
    log_step("key", key_name=environment["SECRET_PROVISION_SET_KEY"], bytes=len(key))
    return key


def connect_broker(enclave: SignedEnclave, bundle: Path, timeout: float) -> tuple[bytes, provisioning.BrokerConnection]:
    """Return the measured certificate of the broker's CA, PEM, and a connection to the first broker that accepts it."""
    broker_ca = read_broker_ca(enclave, bundle)
    brokers = broker_addresses(enclave.manifest.loader.env["SECRET_PROVISION_SERVERS"])
    broker = provisioning.connect(brokers, timeout=timeout)
    log_step("broker", connected=broker)
    return broker_ca, broker


def read_broker_ca(enclave: SignedEnclave, bundle: Path) -> bytes:
    """Return the measured certificate of the broker's CA, PEM."""
    inside = enclave.manifest.loader.env[CA_VARIABLE]
    return read_trusted_file(enclave.manifest, bundle, bundle / (enclave.manifest.host_path(inside) or inside))


def quote_for(enclave: SignedEnclave, quoting_socket: Path, report_data: bytes) -> bytes:
    """Return a quote of a loaded enclave with the given report data (64 bytes)."""
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


def quote_of(bundle: Path, name: str, report_data: bytes, *, quoting_socket: Path) -> bytes:
    """Return a quote of an enclave of a release, without starting its server.

    On SGX, only the code inside an enclave gets quotes. A host with root can do this only in simulation.

    Args:
        bundle: The release's folder, with ``enclave/`` in it.
        name: The enclave's name.
        report_data: 64 bytes.
        quoting_socket: The Unix socket of the simulated quoting enclave.

    Raises:
        SealserveError: The errors of `load_simulated` and `request_quote`.
    """
    enclave = load_simulated(Path(os.path.abspath(bundle)), name, check_files=False)  # noqa: PTH100  # keep links
    return quote_for(enclave, quoting_socket, report_data)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attesting:
    """A server that attests itself. The launcher creates its quotes, and decrypts the mounts with its key.

    Args:
        enclave: The loaded enclave.
        bundle: The release's folder.
        quoting_socket: The Unix socket of the simulated quoting enclave.
        memory: The private memory.
        place: The folder of the attestation device, in the private memory.
    """

    enclave: SignedEnclave
    bundle: Path
    quoting_socket: Path
    memory: PrivateMemory
    place: Path

    def serve(self, relay: SignalRelay) -> int:
        with SimulatedDevice(
            self.place,
            key_name=self.enclave.manifest.loader.env["SECRET_PROVISION_SET_KEY"],
            quote_for=partial(quote_for, self.enclave, self.quoting_socket),
            open_mounts=self._open,
        ) as device:
            environment = {CA_VARIABLE: str(self._broker_ca())}
            status = _serve(self.enclave.manifest, self.memory, relay, started=device.start, instead=environment)
        device.check()
        return status

    def _broker_ca(self) -> Path:
        """Return a copy in the private memory of the broker's CA, which Gramine mounts at the path in the manifest."""
        path = self.memory.root / BROKER_CA_FILE
        path.write_bytes(read_broker_ca(self.enclave, self.bundle))
        return path

    def _open(self, key: SecretBytes) -> None:
        found = open_mounts(self.enclave.manifest, self.bundle, self.memory, key)
        log_step("mounts", files=found.files, bytes=found.size, key="wiped")


def _serve(
    manifest: EnclaveManifest,
    memory: PrivateMemory,
    relay: SignalRelay,
    *,
    started: Callable[[], None] | None = None,
    instead: Mapping[str, str] | None = None,
) -> int:
    """Run the server until its end.

    Args:
        manifest: The manifest with the measured arguments and environment.
        memory: The private memory.
        relay: Passes signals on to the server.
        started: Called after the start.
        instead: Variables with other values than in the manifest.
    """
    argv = [memory.translate(argument) for argument in manifest.loader.argv]
    environment = {
        variable: memory.translate(value) for variable, value in manifest.loader.env.items() if variable not in CONSUMED
    } | dict(instead or {})
    log_step("server", program=manifest.libos.entrypoint, arguments=len(argv), environment=len(environment))
    status = relay.run(partial(start_server, manifest.libos.entrypoint, argv, environment), started=started)
    log_step("ended", status=status)
    return status


def _end_with(parent: int) -> None:
    set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        raise StoppedBySignal(signal.SIGTERM)


def log_step(step: str, **evidence: object) -> None:
    """Log a step with its evidence, in the format that `cluster.launch_log` parses."""
    LOGGER.info("step=%s %s", step, " ".join(f"{field}={value}" for field, value in evidence.items()))
