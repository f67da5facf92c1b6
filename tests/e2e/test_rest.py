"""REST in a deployment: JSON over TLS that ends in the enclave, through the real NGINX."""

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness.rest import ANSWER, BODY, PREDICT, RestConnection, RestLoad, user_context
from tests.harness.running import Running, deployment

from sealserve.cluster import ports
from sealserve.deployment.endpoints import endpoints_of
from sealserve.enclave.server_command import GRAMINE_THREADS, threads_of
from sealserve.process_signal import running
from sealserve.serving.open_inference import open_inference_grpc_pb2 as inference
from sealserve.serving.wire.reflection_messages import VERSIONS

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]

CLIENTS = 4
INFER = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [3], "data": [1.0, 2.0, 5.0]}]}).encode()
REFLECTION = VERSIONS[0]


@contextmanager
def with_rest(capture: pytest.CaptureFixture[str], *, tls: str = "two-way", **server: Any) -> Iterator[Running]:
    """Yield a deployment with REST that runs."""
    service = {"rest_port": ports.find_free(), "tls": tls}
    with deployment(capture, server={"rest": True, **server}, service=service) as here:
        here.up()
        yield here


def curl(here: Running, *arguments: str) -> str:
    """Run `curl` as the documentation shows it, and return its output."""
    user, found = here.site.workspace.user, endpoints_of(here.site.deployment)
    line = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60"]
    line += ["--cacert", str(user.service_ca), "--connect-to", f"::{found.rest}"]
    done = subprocess.run([*line, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done
    return done.stdout


def recv_until_closed(peer: socket.socket) -> bytes:
    """Return what a peer sends before it closes the connection; a reset is an end too."""
    received = b""
    try:
        while part := peer.recv(65536):
            received += part
    except (ConnectionResetError, ssl.SSLError):
        pass
    return received


def test_users_ask_over_rest_with_the_certificate_that_grpc_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    with with_rest(capsys) as here:
        service, context = here.site.deployment.service, user_context(here.site)
        with closing(RestConnection(here.site, context)) as connection:
            assert connection.ask("POST", PREDICT, BODY) == (200, ANSWER)
            status, found = connection.ask("GET", "/v1/models/half-plus-two")
            assert (status, found["model_version_status"][0]["state"]) == (200, "AVAILABLE")
            assert connection.ask("GET", "/v1/models/half-plus-two/metadata")[0] == 200
            assert connection.ask("POST", "/v1/models/half-plus-two/versions/1:predict", BODY) == (200, ANSWER)
            status, found = connection.ask("POST", "/v1/models/other:predict", BODY)
            assert (status, set(found)) == (404, {"error"})
            # The Open Inference Protocol is on the same ports.
            status, found = connection.ask("POST", "/v2/models/half-plus-two/infer", INFER)
            assert (status, found["outputs"][0]["data"]) == (200, ANSWER["predictions"])
        infer_over_grpc(here)
        # gRPC goes on beside it, and `predict` uses either.
        for api in ([], ["--rest"]):
            found = here.json("predict", *api, "-i", "x=[1.0]")
            assert (found["outputs"], found["version"]) == ({"y": [2.5]}, 1)
        attack(here, (service.listen, service.rest_port), context)
        if shutil.which("curl"):
            user, url = here.site.workspace.user, endpoints_of(here.site.deployment).rest_url
            pair = ["--cert", str(user.certificate), "--key", str(user.key)]
            got = curl(here, *pair, "--data", BODY.decode(), f"{url}/half-plus-two:predict")
            assert json.loads(got) == ANSWER
        # NGINX logs connections of both ports, but not their content.
        log = (here.site.workspace.host.logs / "nginx-access.log").read_text()
        assert f'"port":{service.rest_port},' in log
        assert "predict" not in log


def infer_over_grpc(here: Running) -> None:
    """Call the model by the Open Inference Protocol, and list the services by reflection."""
    user, service = here.site.workspace.user, here.site.deployment.service
    files = (user.service_ca, user.key, user.certificate)
    credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))
    options = [("grpc.ssl_target_name_override", service.name)]
    with grpc.secure_channel(f"{service.listen}:{service.port}", credentials, options) as channel:
        request = inference.ModelInferRequest(model_name="half-plus-two")
        request.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
        call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = inference.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=60))
        assert list(answer.outputs[0].contents.fp32_contents) == [2.5]
        listing: Any = channel.stream_stream(REFLECTION.path)
        (content,) = listing(iter([REFLECTION.request(list_services="").SerializeToString()]), timeout=60)
        listed = REFLECTION.response.FromString(content).list_services_response.service
        assert {"tensorflow.serving.PredictionService", inference.DESCRIPTOR.package + ".GRPCInferenceService"} <= {
            found.name for found in listed
        }


def attack(here: Running, place: tuple[str, int], context: ssl.SSLContext) -> None:
    """Send requests to the port as an unauthenticated client on the network. No attempt gets an answer from a model."""
    # 1. Another server name, or none: NGINX closes the connection before TLS begins.
    for name in ("other.example.com", None):
        lax = user_context(here.site)
        lax.check_hostname = False
        with socket.create_connection(place, timeout=60) as opened, pytest.raises(OSError):  # noqa: PT011, SIM117  # it depends on the time
            with lax.wrap_socket(opened, server_hostname=name):
                pass
    # 2. No client certificate: the enclave ends the handshake. TLS 1.3 clients see it when they read.
    with closing(RestConnection(here.site, user_context(here.site, certificate=False))) as stranger:  # noqa: SIM117  # two steps
        with pytest.raises((OSError, http.client.HTTPException)):
            stranger.ask("POST", PREDICT, BODY)
    # 3. Plaintext HTTP/1.1 and HTTP/2 with prior knowledge (h2c): NGINX finds no server name, and forwards nothing.
    for request in (b"GET /v1/models/half-plus-two HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with socket.create_connection(place, timeout=60) as opened:
            opened.sendall(request)
            assert recv_until_closed(opened) == b""
    # 4. HTTP/2 inside of TLS: the server chooses HTTP/1.1, and refuses the preface of HTTP/2 with an error in JSON.
    two = user_context(here.site)
    two.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(place, timeout=60) as opened,
        two.wrap_socket(opened, server_hostname=here.site.deployment.service.name) as wrapped,
    ):
        assert wrapped.selected_alpn_protocol() == "http/1.1"
        wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert recv_until_closed(wrapped).startswith((b"HTTP/1.1 505 ", b"HTTP/1.1 400 "))
    # 5. A body that is larger than the limit is refused before it is read.
    with closing(RestConnection(here.site, context)) as large:
        large.putrequest("POST", PREDICT)
        large.putheader("Content-Length", str(2**31))
        large.endheaders()
        assert large.getresponse().status == 413
    # 6. A client that never sends the rest of its request does not keep the others waiting.
    with closing(RestConnection(here.site, context)) as slow, closing(RestConnection(here.site, context)) as quick:
        slow.putrequest("POST", PREDICT)
        slow.putheader("Content-Length", "1000")
        slow.endheaders(b'{"instances": [')
        assert quick.ask("POST", PREDICT, BODY) == (200, ANSWER)


def test_kept_connections_lose_no_request_when_a_replica_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    with with_rest(capsys, tls="one-way", max_connection_age_seconds=2) as here:
        if shutil.which("curl"):
            url = endpoints_of(here.site.deployment).rest_url
            assert json.loads(curl(here, "--data", BODY.decode(), f"{url}/half-plus-two:predict")) == ANSWER
        with RestLoad(here.site, CLIENTS, certificate=False) as load:
            # Each server has as many threads as were measured, or fewer: SGX would refuse more.
            assert 4 < most_threads(here) <= threads_of(here.site.deployment).all - GRAMINE_THREADS
            assert here.process("scale", "1").status == 0
            assert here.process("scale", "2").status == 0
        assert load.errors == []
        assert all(load.moved), "each connection reached its age and moved"
        assert serving(here) == ["replica-0", "replica-1"]


def most_threads(here: Running) -> int:
    """Return the largest number of threads in any process of the replicas."""
    leaders = {part["pid"] for role, part in here.parts().items() if role.startswith("replica-")}
    texts = [Path(f"/proc/{pid}/status").read_text() for pid, found in running() if found.session in leaders]
    return max(int(text.partition("\nThreads:")[2].split()[0]) for text in texts)


def serving(here: Running) -> Sequence[str]:
    """Return the replicas that serve."""
    return sorted(role for role, state in here.states().items() if role.startswith("replica-") and state == "serving")
