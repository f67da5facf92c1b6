import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import hosts

from sealserve.host.cpuid import Registers, SgxSupport, sgx_support

MIB = 1 << 20
LARGEST_SERVER_ENCLAVE = 1 << 0x38
LARGEST_CLIENT_ENCLAVE = 1 << 0x24


@pytest.mark.parametrize(
    ("machine", "epc", "sgx2", "largest"),
    [
        (hosts.AZURE_DC2DS_V3, 8192, True, LARGEST_SERVER_ENCLAVE),
        (hosts.ALIBABA_VSGX, 23808, True, LARGEST_SERVER_ENCLAVE),
        (hosts.TWO_SOCKETS, 2028 + 2036, True, LARGEST_SERVER_ENCLAVE),
        (hosts.CLIENT_XEON, 93.5, False, LARGEST_CLIENT_ENCLAVE),
    ],
)
def test_machines_with_sgx(machine: hosts.Leaves, epc: float, sgx2: bool, largest: int) -> None:
    assert sgx_support(hosts.reader(machine)) == SgxSupport(
        intel=True,
        sgx=True,
        launch_control=True,
        sgx1=True,
        sgx2=sgx2,
        max_enclave_bytes=largest,
        epc_bytes=int(epc * MIB),
    )


def test_cpuid_reports_sgx_that_the_bios_disables() -> None:
    found = sgx_support(hosts.reader(hosts.DISABLED_IN_BIOS))
    assert (found.sgx, found.launch_control, found.sgx1, found.epc_bytes) == (True, True, False, 0)


def test_a_processor_without_launch_control() -> None:
    found = sgx_support(hosts.reader(hosts.NO_LAUNCH_CONTROL))
    assert (found.sgx, found.sgx1, found.launch_control) == (True, True, False)


def test_processors_without_sgx() -> None:
    assert sgx_support(hosts.reader(hosts.NO_SGX)) == SgxSupport(intel=True)
    assert sgx_support(hosts.reader(hosts.NOT_INTEL)) == SgxSupport(intel=False)


@given(st.tuples(*[st.integers(0, 2**32 - 1)] * 4))
def test_any_answers_of_a_processor_are_bounded(registers: tuple[int, int, int, int]) -> None:
    answer = Registers(*registers)
    found = sgx_support(lambda leaf, _subleaf: hosts.INTEL if leaf == 0 else answer)
    assert found.intel
    assert found.max_enclave_bytes <= 1 << 63
