"""Runtime that starts an enclave with gramine-sgx, restarts it after a failure, and logs possible causes.

Gramine's provisioning library ends the process at the first failure of any kind, and its messages name neither a file
nor a host. Therefore this runtime starts the enclave again after growing pauses. After each failure it checks the
files, the devices and the broker's address from outside the enclave.

Source: Gramine 1.9, ``tools/gramine.in`` (arguments, which files are read), ``tools/sgx/ra-tls/secret_prov_attest.c``
(exit statuses), ``pal/src/host/linux-sgx/host_framework.c`` and ``host_platform.c`` (the driver, aesmd's socket).
"""

import logging
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.findings import Danger
from sealserve.enclave.gramine_tools import INSTALLATION
from sealserve.enclave.launch.broker_addresses import broker_addresses
from sealserve.enclave.launch.pauses import Pauses
from sealserve.enclave.launch.server_process import SignalRelay, start_server, until_stopped
from sealserve.enclave.launch.trusted_files import check_trusted_files
from sealserve.enclave.measurement import SignedEnclave, load_enclave
from sealserve.errors import SealserveError
from sealserve.host import facts
from sealserve.sealing.release_index import ENCLAVE_FOLDER
from sealserve.terms import PlatformKind

LOGGER: Final = logging.getLogger(__name__)
LOADER_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin"}  # the loader's shell script needs only PATH
DRIVER: Final = Path(facts.ENCLAVE_DEVICE)
AESM_SOCKET: Final = Path(facts.AESM_SOCKET)
_CONNECT_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GramineSgx:
    """The runtime of enclaves on SGX.

    Args:
        verify: Verifies the bundle before each start, and raises an error if it differs from what the owner built.
        attempts: The maximum number of starts; None for no limit.
    """

    verify: Callable[[], object]
    attempts: int | None = None

    def run(self, bundle: Path, name: str, *, dangerous: Collection[Danger]) -> int:
        """Run an enclave; see `Runtime.run`.

        Raises:
            InputError: `enclave.not-for-sgx`: The enclave was built for the simulated platform.
            SealserveError: The errors of `load_enclave` and `run_gramine_sgx`.
        """
        enclave = load_enclave(bundle, name, dangerous=dangerous)
        if enclave.manifest.loader.env["SEALSERVE_PLATFORM"] != PlatformKind.SGX:
            raise EnclaveCode.NOT_FOR_SGX.error(
                f"The enclave {name!r} cannot start on SGX: it was built for the simulated platform.",
                hint='Build the release and the enclave again with `platform = "sgx"` in sealserve.toml.',
            )
        here, verify, attempts = bundle.absolute(), self.verify, self.attempts
        return until_stopped(lambda relay: run_gramine_sgx(here, enclave, relay, verify=verify, attempts=attempts))


def find_loader(name: str) -> str:
    """Return the path of ``gramine-sgx`` or ``gramine-direct``.

    Raises:
        UnavailableError: `gramine.loader-missing`: The program is not on the search path.
    """
    found = shutil.which(name)
    if found is None:
        raise EnclaveCode.GRAMINE_LOADER_MISSING.error(
            f"{name} is not installed on this machine, or is not on the search path (PATH).",
            hint=f"Install Gramine ({INSTALLATION}). `sealserve doctor host` lists everything that is missing.",
        )
    return found


def run_gramine_sgx(
    bundle: Path,
    enclave: SignedEnclave,
    relay: SignalRelay,
    *,
    verify: Callable[[], object],
    attempts: int | None = None,
) -> int:
    """Run an enclave on SGX until it succeeds, a signal stops it, or it has failed ``attempts`` times.

    The current directory of the enclave is the bundle, because the manifest has relative names of sealed files.

    Args:
        bundle: The release's folder, with ``enclave/`` in it; absolute.
        enclave: The enclave that was loaded from the bundle.
        relay: Passes signals on to the enclave.
        verify: Verifies the bundle before each start, and raises an error if it differs from what the owner built.
        attempts: The maximum number of starts; None for no limit.

    Returns:
        The exit status of the last start.

    Raises:
        UnavailableError: `gramine.loader-missing`: gramine-sgx is not installed.
        SealserveError: The errors of ``verify``. The enclave is not started then.
        StoppedBySignal: A signal arrived while no enclave ran.
    """
    loader = find_loader("gramine-sgx")
    arguments = [loader, f"{ENCLAVE_FOLDER}/{enclave.name}"]
    pauses, failed = Pauses(), 0
    while True:
        # Verify before each start, because the host may have changed a file since the last start.
        verify()
        started = time.monotonic()
        status = relay.run(partial(start_server, loader, arguments, LOADER_ENVIRONMENT, folder=bundle))
        ran = time.monotonic() - started
        LOGGER.info("step=ended status=%d seconds=%.1f", status, ran)
        failed += 1
        if status == 0 or relay.asked:
            return status
        relay.again()  # the diagnosis reads every trusted file, which may take minutes
        for finding in diagnose(bundle, enclave, relay):
            LOGGER.error("step=diagnosis %s", finding)
        if failed == attempts:
            return status
        pause = pauses.after(ran)
        LOGGER.warning("step=again after=%.0fs failed=%d", pause, failed)
        time.sleep(pause)


def diagnose(bundle: Path, enclave: SignedEnclave, relay: SignalRelay) -> Iterator[str]:
    """Yield findings, visible from outside the enclave, about why it did not start or did not get its key.

    Raises:
        StoppedBySignal: A signal arrived.
    """
    try:
        yield f"all {check_trusted_files(enclave.manifest, bundle)} trusted files match their measured digests"
    except SealserveError as error:
        yield str(error)
    for path, meaning in ((DRIVER, "the kernel's SGX driver"), (AESM_SOCKET, "aesmd, which creates quotes")):
        yield (
            f"{path} exists ({meaning})"
            if path.exists()
            else f"{path} is missing ({meaning}); run `sealserve doctor host`"
        )
    for host, port in broker_addresses(enclave.manifest.loader.env["SECRET_PROVISION_SERVERS"]):
        with relay.held():
            reason = _unreachable(host, port)
        if reason is None:
            yield f"the broker at {host}:{port} accepts connections: read its rejections with `sealserve broker log`"
        else:
            yield f"the broker at {host}:{port} cannot be reached: {reason}"


def _unreachable(host: str, port: int) -> str | None:
    """Return why the broker does not accept a connection, or None if it does."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT):
            return None
    except OSError as error:
        return error.strerror or str(error)
