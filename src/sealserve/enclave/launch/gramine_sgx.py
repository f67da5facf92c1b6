"""Running an enclave with gramine-sgx: again when it fails, and saying what may be the cause.

Gramine's provisioning library ends the process at the first failure, whatever it is, and its messages name no file and
no host. So the enclave is started again, after growing pauses, and after each failure this machine's side is looked at.

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
LOADER_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin"}  # its shell script needs no more
DRIVER: Final = Path(facts.ENCLAVE_DEVICE)
AESM_SOCKET: Final = Path(facts.AESM_SOCKET)
_CONNECT_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GramineSgx:
    """The runtime of enclaves on SGX.

    Args:
        verify: Verifies the bundle, before each start; raises where it is not as its owner built it.
        attempts: The maximum number of starts; None for no limit.
    """

    verify: Callable[[], object]
    attempts: int | None = None

    def run(self, bundle: Path, name: str, *, dangerous: Collection[Danger]) -> int:
        """Run an enclave; see `Runtime.run`.

        Raises:
            InputError: `enclave.not-for-sgx`: It was built for the simulated platform.
            SealserveError: What `load_enclave` and `run_gramine_sgx` raise.
        """
        enclave = load_enclave(bundle, name, dangerous=dangerous)
        if enclave.manifest.loader.env["SEALSERVE_PLATFORM"] != PlatformKind.SGX:
            raise EnclaveCode.NOT_FOR_SGX.error(
                f"The enclave {name!r} was built for the simulated platform.",
                hint='Build release and enclave with `platform = "sgx"`.',
            )
        here, verify, attempts = bundle.absolute(), self.verify, self.attempts
        return until_stopped(lambda relay: run_gramine_sgx(here, enclave, relay, verify=verify, attempts=attempts))


def find_loader(name: str) -> str:
    """Return the path of ``gramine-sgx`` or ``gramine-direct``.

    Raises:
        UnavailableError: `gramine.loader-missing`: It is not on the search path.
    """
    found = shutil.which(name)
    if found is None:
        raise EnclaveCode.GRAMINE_LOADER_MISSING.error(
            f"There is no {name} on this machine.",
            hint=f"Install Gramine ({INSTALLATION}); `sealserve doctor host` says what else is missing.",
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
    """Run an enclave on SGX until it ends well, is asked to end, or has failed too often; return its exit status.

    Its current directory is the bundle, since the sealed files have relative names in the manifest.

    Args:
        bundle: The release's folder, with ``enclave/`` in it; absolute.
        enclave: What was read there.
        relay: Passes signals on to it.
        verify: Verifies the bundle, before each start; raises where it is not as its owner built it.
        attempts: How often it is started at most; None for no limit.

    Raises:
        UnavailableError: `gramine.loader-missing`: There is no gramine-sgx.
        SealserveError: What ``verify`` raises: nothing is started then.
        StoppedBySignal: A signal came while no enclave ran.
    """
    loader = find_loader("gramine-sgx")
    arguments = [loader, f"{ENCLAVE_FOLDER}/{enclave.name}"]
    pauses, failed = Pauses(), 0
    while True:
        # Each start verifies anew: the host may have changed a file since the last one.
        verify()
        started = time.monotonic()
        status = relay.run(partial(start_server, loader, arguments, LOADER_ENVIRONMENT, folder=bundle))
        ran = time.monotonic() - started
        LOGGER.info("step=ended status=%d seconds=%.1f", status, ran)
        failed += 1
        if status == 0 or relay.asked:
            return status
        relay.again()  # what follows reads every file, which may take minutes
        for finding in diagnose(bundle, enclave, relay):
            LOGGER.error("step=diagnosis %s", finding)
        if failed == attempts:
            return status
        pause = pauses.after(ran)
        LOGGER.warning("step=again after=%.0fs failed=%d", pause, failed)
        time.sleep(pause)


def diagnose(bundle: Path, enclave: SignedEnclave, relay: SignalRelay) -> Iterator[str]:
    """Yield what can be seen from outside of why an enclave did not start or got no key.

    Raises:
        StoppedBySignal: A signal came.
    """
    try:
        yield f"the {check_trusted_files(enclave.manifest, bundle)} trusted files are as they were measured"
    except SealserveError as error:
        yield str(error)
    for path, meaning in ((DRIVER, "the kernel's SGX driver"), (AESM_SOCKET, "aesmd, which makes quotes")):
        yield (
            f"{path} is there ({meaning})"
            if path.exists()
            else f"{path} is missing ({meaning}): `sealserve doctor host`"
        )
    for host, port in broker_addresses(enclave.manifest.loader.env["SECRET_PROVISION_SERVERS"]):
        with relay.held():
            reason = _unreachable(host, port)
        if reason is None:
            yield f"the broker at {host}:{port} answers; `sealserve broker log` at its owner says what it refused"
        else:
            yield f"the broker at {host}:{port} cannot be reached: {reason}"


def _unreachable(host: str, port: int) -> str | None:
    """Return why no connection to the broker can be made, or None if one can."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT):
            return None
    except OSError as error:
        return error.strerror or str(error)
