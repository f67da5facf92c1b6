import pytest
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.launch.broker_addresses import broker_addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("broker:4433", [("broker", 4433)]),
        ("dummy:80;localhost:4433;other:1", [("dummy", 80), ("localhost", 4433), ("other", 1)]),
        ("a:1,b:2 c:3", [("a", 1), ("b", 2), ("c", 3)]),
        (";a:1;", [("a", 1)]),
    ],
)
def test_the_list_is_read_as_gramine_reads_it(text: str, expected: list[tuple[str, int]]) -> None:
    assert broker_addresses(text) == expected


@pytest.mark.parametrize("text", ["", ";", "broker", "broker:", ":4433", "broker:0", "broker:65536", "b:x", "::1:4433"])
def test_a_list_without_a_server_is_refused(text: str) -> None:
    with raises(EnclaveCode.PROVISIONING_SERVERS, match="SECRET_PROVISION_SERVERS") as caught:
        broker_addresses(text)

    assert caught.value.code == "provisioning.servers"
