"""Clients that mean harm: nothing that they send comes out where it must not, and the server's memory stays bounded."""

import gzip
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness import http2
from tests.harness.model_server import (
    CANARY,
    LONG,
    Process,
    Start,
    Tls,
    both_transports,
    free_port,
    get,
    half_plus_two,
    predict,
    predict_request,
    prediction_stub,
    raw,
    refused,
    secure_channel,
)

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]

PREDICT = "/tensorflow.serving.PredictionService/Predict"
NUMBER = 771177.5
ANSWER = 385590.75
SECRETS = (CANARY, str(NUMBER), str(ANSWER), "771177", CANARY.encode().hex())

# --- canaries ---------------------------------------------------------------------------------------------------------

BODIES: tuple[tuple[str, bytes], ...] = tuple(
    (verb, body if isinstance(body, bytes) else json.dumps(body).encode())
    for verb, body in (
        ("predict", {"instances": [CANARY]}),
        ("predict", {"instances": [{"x": CANARY}]}),
        ("predict", {"instances": [{"y": NUMBER}]}),
        ("predict", {"instances": [[NUMBER], [NUMBER, NUMBER]]}),
        ("predict", {"instances": CANARY}),
        ("predict", {"instances": []}),
        ("predict", {"instances": [NUMBER], "inputs": NUMBER}),
        ("predict", {"instances": [{"b64": CANARY}]}),
        ("predict", {"instances": [[[NUMBER]], NUMBER]}),
        ("predict", {"inputs": {"x": CANARY}}),
        ("predict", {"inputs": {"z": [NUMBER]}}),
        ("predict", {"inputs": [[NUMBER], [NUMBER, CANARY]]}),
        ("predict", {"signature_name": NUMBER, "inputs": CANARY}),
        ("predict", {"signature_name": "number", "inputs": CANARY}),
        ("predict", {"signature_name": "number", "instances": [CANARY, CANARY]}),
        ("predict", {"signature_name": "number", "inputs": NUMBER}),
        ("predict", {"signature_name": "write", "inputs": {"first": f"/{CANARY}\0/", "second": ""}}),
        ("predict", CANARY.encode()),
        ("predict", json.dumps(CANARY).encode()),
        ("predict", f'{{"instances": [{NUMBER},'.encode()),
        ("predict", f'{{"instances": [{NUMBER}] "{CANARY}"}}'.encode()),
        ("predict", b'{"instances": ["\xff' + CANARY.encode() + b'"]}'),
        ("predict", b"[" * 100_000 + CANARY.encode()),
        ("classify", {"signature_name": "classify", "examples": [{"x": CANARY}]}),
        ("classify", {"signature_name": "classify", "examples": CANARY}),
        ("classify", {"signature_name": "classify", "examples": [{"y": NUMBER}]}),
        ("regress", {"signature_name": "regress", "examples": [{"x": [NUMBER, NUMBER]}]}),
        ("regress", {"signature_name": "regress", "examples": [{"x": {"b64": CANARY}}]}),
        ("regress", {"signature_name": "regress", "examples": [{"x": [NUMBER, CANARY]}]}),
        ("regress", {"signature_name": "regress", "examples": [CANARY]}),
        ("regress", {"signature_name": "regress", "context": CANARY, "examples": [{"x": NUMBER}]}),
        ("regress", {"examples": [{"x": NUMBER}]}),
        ("regress", {"signature_name": CANARY[:3], "examples": [{"x": NUMBER}]}),
    )
)


def _grpc_errors(channel: grpc.Channel) -> Iterator[Callable[[], object]]:
    """Yield calls that must be refused, each with a secret in an input."""
    from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2  # noqa: PLC0415

    yield lambda: predict(channel, "number", text=CANARY)
    yield lambda: predict(channel, "number", text=f"{CANARY}\n\t [[{{{{node {CANARY}}}}}]]")
    yield lambda: predict(channel, "number", text=[CANARY])
    yield lambda: predict(channel, "number", text=CANARY * 10_000)
    yield lambda: predict(channel, "write", first=f"/{CANARY}\0/", second="")
    yield lambda: predict(channel, x=CANARY)
    yield lambda: predict(channel, y=CANARY)
    yield lambda: predict(channel, x=[NUMBER], y=CANARY)
    yield lambda: predict(channel, "regress", inputs=[CANARY])
    yield lambda: predict(channel, "regress", inputs=[[CANARY]])
    yield lambda: predict(channel, "nothing", x=[NUMBER])
    for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"):
        method = f"/tensorflow.serving.PredictionService/{name}"
        yield lambda method=method: raw(channel, method)(CANARY.encode(), timeout=LONG)  # type: ignore[misc]  # bound
    stub: Any = prediction_stub(channel)
    for kind, call in (
        (classification_pb2.ClassificationRequest, stub.Classify),
        (regression_pb2.RegressionRequest, stub.Regress),
    ):
        for feature, signature in (("x", "regress"), ("y", "regress"), ("x", "number"), ("x", "")):
            request = kind()
            request.model_spec.name, request.model_spec.signature_name = "m", signature
            example = request.input.example_list.examples.add()
            example.features.feature[feature].bytes_list.value.append(CANARY.encode())
            yield lambda request=request, call=call: call(request, timeout=LONG)  # type: ignore[misc]  # bound
    both = inference_pb2.MultiInferenceRequest()
    task = both.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name, task.model_spec.signature_name = "m", "regress"
    both.input.example_list.examples.add().features.feature["x"].bytes_list.value.append(CANARY.encode())
    yield lambda: stub.MultiInference(both, timeout=LONG)


def _talk(port: int, content: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send bytes, and return the answer until the server closes the connection."""
    received = bytearray()
    with ExitStack() as stack, suppress(OSError):
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LONG))
        if context is not None:
            peer = stack.enter_context(context.wrap_socket(peer))
        peer.sendall(content)
        if context is None:
            peer.shutdown(socket.SHUT_WR)
        peer.settimeout(0.3 if context else LONG)
        while part := peer.recv(65536):
            received += part
    return bytes(received)


RAW_GRPC = (
    f"GET /{CANARY} HTTP/1.1\r\n\r\n".encode(),
    b"\x16\x03\x01\x02\x00" + CANARY.encode() * 40,
    http2.hello() + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff" + CANARY.encode() * 5),
    http2.hello() + http2.request(f"/{CANARY}"),
    http2.hello() + http2.request(PREDICT, CANARY.encode()),
    http2.hello() + http2.request(PREDICT, CANARY.encode(), grpc_timeout=CANARY),
    http2.hello() + http2.request(PREDICT, CANARY.encode(), grpc_encoding=CANARY),
    http2.hello() + http2.request(PREDICT, CANARY.encode(), content_type=CANARY),
    http2.hello() + http2.frame(http2.GOAWAY, 0, 0, bytes(7) + b"\x01" + CANARY.encode()),
)
_POST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n"
RAW_HTTP = (
    CANARY.encode() + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00" + CANARY.encode() * 40,
    b"GET /v1/models/m HTTP/1.1\r\n" + CANARY.encode() + b"\r\n\r\n",
    _POST + b"Content-Length: " + CANARY.encode() + b"\r\n\r\n",
    _POST + b"Content-Length: 500\r\n\r\n" + CANARY.encode(),
    _POST + b"Transfer-Encoding: chunked\r\n\r\n" + CANARY.encode() + b"\r\n",
    _POST + b"Content-Encoding: gzip\r\nContent-Length: 13\r\n\r\n" + CANARY.encode(),
    _POST + b"Content-Encoding: " + CANARY.encode() + b"\r\nContent-Length: 2\r\n\r\n{}",
    _POST + b"X: " + CANARY.encode() * 2000 + b"\r\n\r\n",
)


@both_transports
@pytest.mark.parametrize("batching", [False, True], ids=["alone", "batched"])
def test_no_input_leaves_by_an_error_or_a_log(
    start: Start, model: Path, tls: Tls, tmp_path: Path, *, batching: bool
) -> None:
    (tmp_path / "ssl.cfg").write_bytes(tls.settings(two_way=False))
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true }")
    rest = free_port()
    server = start(
        f"--model_base_path={model}",
        f"--ssl_config_file={tmp_path}/ssl.cfg",
        f"--rest_api_port={rest}",
        f"--monitoring_config_file={tmp_path}/monitoring.config",
        "--max_message_bytes=100000",
        *(["--enable_batching"] if batching else []),
    )
    port = server.port()
    context = ssl.create_default_context(cadata=tls.service.certificate_pem.decode())
    context.check_hostname = False
    said: list[str] = []
    with secure_channel(port, tls, authority=tls.service.certificate_pem, client=None) as channel:
        for call in _grpc_errors(channel):
            error: Any = refused(call)
            said.extend((error.details(), str(error.trailing_metadata())))
        assert half_plus_two(channel, NUMBER) == [ANSWER]
    for verb, body in BODIES:
        for content, headers in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
            connection = http.client.HTTPSConnection("127.0.0.1", rest, timeout=LONG, context=context)
            connection.request("POST", f"/v1/models/m:{verb}", content, headers)
            response = connection.getresponse()
            answer = response.read().decode()
            connection.close()
            assert response.status >= 400, (verb, body[:100], answer[:200])
            assert json.loads(answer)["error"]
            said.extend((answer, str(response.getheaders())))
    h2 = ssl.create_default_context(cadata=tls.service.certificate_pem.decode())
    h2.check_hostname = False
    h2.set_alpn_protocols(["h2"])
    for talks, target, secure in ((RAW_GRPC, port, h2), (RAW_HTTP, rest, context)):
        for talk in talks:
            for wrapped in (None, secure):
                answer = _talk(target, talk, wrapped).decode("latin-1")
                said.extend([] if f"/{CANARY}".encode() in talk else [answer])  # a path is no value
    page = get(f"https://127.0.0.1:{rest}/monitoring/prometheus/metrics", None, context)
    server.signal()
    assert server.ended() == 0
    for secret in SECRETS:
        for text in (*said, page, server.output):
            assert secret not in text


# --- floods -----------------------------------------------------------------------------------------------------------

LARGEST = 1_000_000
"""Bytes: the largest message of the server that is flooded."""
SENDING = 64
HELD = 8
SLACK = 180_000_000
"""Bytes: what threads, connections, TensorFlow's arenas and the allocator's fragments take beside the messages."""
SLACK_OF_THREADS = 250_000_000
"""Bytes more for the transport on the public API: gRPC reads the messages of calls that wait for one of its threads."""


def _peak(server: Process) -> int:
    """Return the largest resident size since `_forget_peak`, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


def _forget_peak(server: Process) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # proc(5): VmHWM becomes the present size


def _wide(elements: int) -> bytes:
    """Return a PredictRequest of a few bytes whose tensor, and whose answer, take many."""
    import tensorflow as tf  # noqa: PLC0415  # the model's fixture has paid for it

    request = predict_request()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(1.0, shape=[elements]))
    return bytes(request.SerializeToString())


def _grpc_slow_readers(stack: ExitStack, port: int) -> None:
    """Request large answers on streams without a receive window."""
    message = _wide(LARGEST // 4 - 100)
    for _ in range(40):
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LONG))
        peer.sendall(http2.hello(window=0))
        for stream in range(1, 41, 2):
            peer.sendall(http2.request(PREDICT, message, stream=stream))


def _rest_slow_readers(stack: ExitStack, port: int) -> None:
    body = json.dumps({"inputs": [1.5] * 150_000}).encode()
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(150):
        peer = stack.enter_context(socket.socket())
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(LONG)
        peer.connect(("127.0.0.1", port))
        with suppress(OSError):
            peer.sendall(head + body)


def _rest_slow_senders(stack: ExitStack, port: int) -> None:
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
    for _ in range(150):
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LONG))
        with suppress(OSError):
            peer.sendall(head + b" " * 800_000)


def _large_messages(stack: ExitStack, port: int) -> None:
    """Send many large requests at once, from connections of their own."""
    channels = [
        stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]))
        for _ in range(8)
    ]
    content = predict_request(x=[1.0] * 200_000).SerializeToString()
    calls = [raw(channels[number % 8], PREDICT).future(content, timeout=LONG) for number in range(400)]
    codes = {call.exception().code() if call.exception() else grpc.StatusCode.OK for call in calls}
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert grpc.StatusCode.OK in codes


def _idle(stack: ExitStack, port: int) -> None:
    for _ in range(300):
        stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LONG))


def _recover(works: Callable[[], bool]) -> None:
    """Wait until the server has done with the flood's calls, whose connections are gone."""
    until = time.monotonic() + LONG
    while True:
        try:
            assert works()
        except (grpc.RpcError, OSError):
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            return


@both_transports
def test_a_flood_takes_bounded_memory_and_the_server_lives(
    start: Start, model: Path, request: pytest.FixtureRequest
) -> None:
    slack = SLACK + SLACK_OF_THREADS * ("public" in request.node.name)
    rest = free_port()
    server = start(
        f"--model_base_path={model}",
        "--dangerous_plaintext",
        "--dangerous_plaintext_rest",
        f"--rest_api_port={rest}",
        *(f"--max_message_bytes={LARGEST}", f"--rest_api_max_body_bytes={LARGEST}"),
        *("--grpc_max_threads=2", "--rest_api_num_threads=2", "--tensorflow_session_parallelism=1"),
        "--transfer_timeout_seconds=600",  # so that giving up on them is not what bounds the memory
    )
    port = server.port()
    floods: tuple[tuple[Callable[[ExitStack, int], None], int], ...] = (
        (_idle, port),
        (_idle, rest),
        (_large_messages, port),
        (_grpc_slow_readers, port),
        (_rest_slow_senders, rest),
        (_rest_slow_readers, rest),
    )
    url = f"http://127.0.0.1:{rest}/v1/models/m:predict"
    with grpc.insecure_channel(f"127.0.0.1:{port}") as honest:
        for _ in range(20):
            assert half_plus_two(honest, *range(20_000))[0] == 2.0
            assert json.loads(get(url, {"inputs": [2.0] * 20_000}))["outputs"][0] == 3.0
        _forget_peak(server)
        before = _peak(server)
        for flood, target in floods:
            with ExitStack() as stack:
                flood(stack, target)
                assert server.process.poll() is None
                grown = _peak(server) - before
                assert grown < (SENDING + HELD) * LARGEST + slack, (flood.__name__, grown)
            _recover(lambda: half_plus_two(honest, 2.0) == [3.0])
            _recover(lambda: json.loads(get(url, {"inputs": [2.0]})) == {"outputs": [3.0]})
    server.signal()
    assert server.ended() == 0
