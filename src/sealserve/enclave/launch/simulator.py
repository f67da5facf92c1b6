"""The only import path to the simulated platform: no other module imports ``enclave.simulated`` or ``sgx.simulated``.

An installation for production can leave these two packages out. Therefore they are imported when a command first needs
them, and a missing package raises an error with its own code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sealserve.errors import UnavailableError

if TYPE_CHECKING:
    from sealserve.enclave.simulated.gramine_direct import GramineDirect
    from sealserve.enclave.simulated.launcher import SimulatedEnclave
    from sealserve.enclave.simulated.private_memory import PrivateMemoryMethod
    from sealserve.sgx.simulated.pcs import PcsServer
    from sealserve.sgx.simulated.platform import SimulatedPlatform as SimulatedPlatform  # noqa: PLC0414  # for annotations
    from sealserve.sgx.simulated.quoting import QuotingServer
    from sealserve.sgx.simulated.vendor import Vendor as Vendor  # noqa: PLC0414  # likewise

PACKAGES: Final = ("sealserve.enclave.simulated", "sealserve.sgx.simulated")


class SimulatorMissingError(UnavailableError):
    """The simulated platform is not installed."""

    code = "simulated.not-installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """The parts of the simulated platform that the rest of sealserve uses.

    Args:
        enclave: The runtime of simulated enclaves.
        quote: Returns a quote of a simulated enclave, without starting its server.
        attestation_result: Requests an attestation result for a simulated enclave from the broker.
        gramine_direct: The runtime of simulated enclaves in Gramine's library OS.
        private_memory_method: How an enclave's private memory is protected from other processes.
        available_method: Returns the best method that works on this machine, and why a better method does not.
        vendor: Stands in for the processor's vendor (Intel) and its certificate authorities.
        platform: Stands in for a processor.
        pcs_server: Publishes the collateral that the vendor signed.
        quoting_server: Creates the platform's quotes.
    """

    enclave: "type[SimulatedEnclave]"
    quote: "Callable[..., bytes]"
    attestation_result: "Callable[..., str]"
    gramine_direct: "type[GramineDirect]"
    private_memory_method: "type[PrivateMemoryMethod]"
    available_method: "Callable[[str], tuple[PrivateMemoryMethod, str]]"
    vendor: "type[Vendor]"
    platform: "type[SimulatedPlatform]"
    pcs_server: "type[PcsServer]"
    quoting_server: "type[QuotingServer]"


def load_simulator() -> Simulator:
    """Import the simulated platform and return its parts.

    Raises:
        SimulatorMissingError: The packages are not installed.
    """
    try:
        from sealserve.enclave.simulated import attestation_result, gramine_direct, launcher, private_memory  # noqa: PLC0415
        from sealserve.sgx.simulated import pcs, platform, quoting, vendor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(PACKAGES):
            raise  # the simulated platform is installed, but one of its dependencies is missing
        raise SimulatorMissingError(
            f"The simulated platform is not installed: {' and '.join(PACKAGES)} are required, and {error.name} is "
            "missing.",
            hint='Install sealserve with its simulated platform, or set platform = "sgx" in sealserve.toml.',
        ) from error
    return Simulator(
        enclave=launcher.SimulatedEnclave,
        quote=launcher.quote_of,
        attestation_result=attestation_result.request_result,
        gramine_direct=gramine_direct.GramineDirect,
        private_memory_method=private_memory.PrivateMemoryMethod,
        available_method=private_memory.available_method,
        vendor=vendor.Vendor,
        platform=platform.SimulatedPlatform,
        pcs_server=pcs.PcsServer,
        quoting_server=quoting.QuotingServer,
    )
