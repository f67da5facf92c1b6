import pytest
from tests.harness.errors import raises

from sealserve.tracing.codes import TracingCode
from sealserve.tracing.collector import Collector


@pytest.mark.parametrize(
    ("text", "address", "tls"),
    [
        ("https://collector.example.com", "collector.example.com:4317", True),
        ("https://collector.example.com:443/", "collector.example.com:443", True),
        ("http://127.0.0.1:5317", "127.0.0.1:5317", False),
        ("https://[2001:db8::7]:4317", "[2001:db8::7]:4317", True),
    ],
)
def test_an_address(text: str, address: str, tls: bool) -> None:
    found = Collector.parse(text)
    assert (found.address, found.tls) == (address, tls)


@pytest.mark.parametrize(
    "text",
    [
        "", "collector:4317", "grpc://collector:4317", "https://", "https://:4317", "https://collector:0",
        "https://collector:65536", "https://collector:port", "https://collector:4317/v1/traces",
        "https://user:hunter2@collector:4317", "https://collector?a=b", "https://collector#a", "https://[::1",
        "https://a b", "https://-a", "https://unix:/tmp/socket", "https://dns:8.8.8.8", "https://a,b",
    ],
)  # fmt: skip
def test_an_invalid_address_is_an_error_that_does_not_repeat_it(text: str) -> None:
    with raises(TracingCode.TRACES_ENDPOINT, match="https://") as caught:
        Collector.parse(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("192.0.2.1", False)])
def test_a_collector_on_this_machine(host: str, loopback: bool) -> None:
    assert Collector.parse(f"http://{host}").is_on_this_machine is loopback
