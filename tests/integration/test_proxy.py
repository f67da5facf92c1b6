"""Stock clients reach the real model server through the verifying proxy: tensorflow-serving-api, Triton, curl, Go."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from scripts.attested_example import Example
from tests.harness.attested_service import NAME, AttestedService, authority, certificate_for
from tests.harness.model_server import LONG, Start, Tls, half_plus_two
from tests.harness.running_proxy import RunningProxy
from tests.harness.stock_clients import output, run

from sealserve.attested.evidence_conversation import EvidenceRequest, PresentedService
from sealserve.client.noted_connection import EndpointTls
from sealserve.cluster import ports
from sealserve.pki.ssl_config import SslConfig
from sealserve.proxy.upstream import ReplicaEvidence
from sealserve.secret import SecretBytes

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow, pytest.mark.timeout(600)]

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/open-inference.md"
GO_CLIENT = Path(__file__).resolve().parents[2] / "testbed" / "go_client"
SECONDS = 300


@pytest.fixture
def proxy(
    start: Start, model: Path, tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningProxy]:
    """A proxy in front of the real model server with two-way TLS. The server has the TLS key of a simulated enclave.

    The model server does not answer requests for evidence here. A test of the whole deployment covers that.
    """
    example = Example(tmp_path / "vendor", now=datetime.now(UTC).replace(microsecond=0))
    service = example.service()

    def evidence(_: ReplicaEvidence, certificate: bytes) -> PresentedService:
        request = EvidenceRequest()
        return request.receive(service.answer(request.nonce), certificate=certificate)

    monkeypatch.setattr(ReplicaEvidence, "__call__", evidence)
    key = example.tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    config = SslConfig(
        server_key=SecretBytes(key),
        server_cert=certificate_for(example.tls_key, example.now),
        custom_ca=tls.users.certificate_pem,
        client_verify=True,
    )
    (tmp_path / "ssl.cfg").write_bytes(config.render().reveal())
    server = start(
        f"--model_base_path={model}", f"--ssl_config_file={tmp_path}/ssl.cfg", f"--rest_api_port={ports.find_free()}"
    )
    rest = server.wait_for(r"serving the REST API on (127\.0\.0\.1:\d+)")[1]
    credentials = EndpointTls(
        server_name=NAME,
        ca=authority(example.now)[0].public_bytes(Encoding.PEM),
        certificate=tls.client.chain_pem,
        key=tls.client.key_pem,
    )
    with RunningProxy(example.policy, credentials, f"127.0.0.1:{server.port()}", rest) as running:
        yield running


def test_tensorflow_serving_api(proxy: RunningProxy) -> None:
    with grpc.insecure_channel(proxy.address) as channel:
        assert half_plus_two(channel, 1, 2, 5) == [2.5, 3.0, 4.5]
        assert half_plus_two(channel, *range(100_000))[-1] == 99_999 / 2 + 2


def test_curl(proxy: RunningProxy) -> None:
    if (curl := shutil.which("curl")) is None:
        pytest.skip("curl is not installed: apt-get install curl")
    done = subprocess.run(
        [curl, "-sS", "--fail", "--max-time", str(LONG), "-d", '{"instances": [1.0, 2.0, 5.0]}',
         f"http://{proxy.address}/v1/models/m:predict"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"predictions": [2.5, 3.0, 4.5]}


def test_the_open_inference_protocol_and_reflection(proxy: RunningProxy, tmp_path: Path) -> None:
    for found in run("triton.py", proxy.address, proxy.address).values():
        assert found["default"] == [2.5, 3.0, 4.5]
    assert run("reflection.py", proxy.address)["answer"] == [2.5, 3.0, 4.5]
    # The example with KServe's client on the page about the protocol.
    section = PAGE.read_text(encoding="utf-8").partition("## Python with KServe")[2].partition("\n## ")[0]
    (example,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    script = tmp_path / "call.py"
    script.write_text(example.replace("127.0.0.1:8500", proxy.address).replace('"half_plus_two"', '"m"'))
    assert output(script) == "[2.5 3.  4.5]\n"


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the client. The first build downloads its modules."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip("Go is not installed: https://go.dev/dl/")
    program = tmp_path_factory.mktemp("go") / "client"
    built = subprocess.run(
        [go, "build", "-o", program, "."], cwd=GO_CLIENT, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if built.returncode:
        pytest.skip(f"the Go client cannot be built, for example without a network: {built.stderr}")
    return program


def test_grpc_from_go(go_client: Path, tmp_path: Path) -> None:
    with AttestedService(tmp_path) as service, RunningProxy.of(service) as proxy:
        message = bytes(range(256)) * 10_000
        done = subprocess.run(
            [go_client, proxy.address, "/a.Service/Method"],
            input=message,
            capture_output=True,
            check=True,
            timeout=LONG,
        )
        assert done.stdout == message
    assert service.observed.inputs == [("/a.Service/Method", message)]


def test_go_receives_the_reason_of_a_refusal(go_client: Path, tmp_path: Path) -> None:
    with AttestedService(tmp_path) as service:
        address = service.address
    with RunningProxy(service.policy, service.tls, address) as proxy:
        done = subprocess.run(
            [go_client, proxy.address, "/a.Service/Method"], input=b"", capture_output=True, check=False, timeout=LONG
        )
    assert done.returncode == 3
    assert b"code = Unavailable desc = sealserve proxy: client.unreachable: Connecting to" in done.stdout
