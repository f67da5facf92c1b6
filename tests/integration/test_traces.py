"""Traces of the model server in a separate process, received by a collector."""

import http.client
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness.model_server import (
    LONG,
    SERVER,
    SERVER_ON_THE_PUBLIC_API,
    Process,
    Start,
    free_port,
    get,
    half_plus_two,
    predict_request,
    prediction_stub,
    refused,
)
from tests.harness.trace_collector import Collector, Received, collecting, unknown_fields, wait_until

from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.tracing.span import Attribute, SpanName
from sealserve.tracing.trace_context import TraceContext

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]

METRICS = "/monitoring/prometheus/metrics"
SERVICE = "tensorflow.serving.PredictionService"
VERBS = ("predict", "classify", "regress")
PATH = "/v1/models/m:predict"


def flags(model: Path, collector: Collector, *more: str) -> list[str]:
    return [
        f"--model_base_path={model}", "--dangerous_plaintext", "--dangerous_plaintext_rest",
        "--dangerous_plaintext_traces", f"--traces_endpoint={collector.plain}", *more,
    ]  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """A server that traces the requests of clients that ask for it."""

    collector: Collector
    process: Process
    grpc: int
    rest: int

    def request(self, context: TraceContext, *below: SpanName) -> Received:
        """Wait for the span of a request, and check the spans below it."""
        spans = self.collector.trace(context.trace, SpanName.REQUEST, *below)
        request = named(spans, SpanName.REQUEST)
        assert request.parent == f"{context.span_id:016x}"
        for name in below:
            part = named(spans, name)
            assert (part.parent, part.attributes, part.failed) == (request.span, {}, False)
            assert request.start <= part.start <= part.end <= request.end
        return request


@pytest.fixture(scope="module", params=[SERVER, SERVER_ON_THE_PUBLIC_API], ids=["completion-queue", "public-api"])
def traced(model: Path, request: pytest.FixtureRequest) -> Iterator[Traced]:
    rest = free_port()
    with collecting() as collector:
        given = flags(model, collector, "--traces_percent=0", "--port=0", f"--rest_api_port={rest}")
        process = Process(given, request.param)
        yield Traced(collector, process, process.port(), rest)
        process.signal()
        assert process.ended() == 0
        process.close()


@pytest.fixture
def channel(traced: Traced) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{traced.grpc}", [("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


def ask(channel: grpc.Channel, *headers: tuple[str, str], signature: str = "", **inputs: Any) -> Any:
    inputs = inputs or {"x": [1.0, 2.0]}
    return prediction_stub(channel).Predict(predict_request(signature, **inputs), timeout=LONG, metadata=headers)


def post(port: int, path: str, body: object, *contexts: TraceContext) -> int:
    content = json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
    connection.putrequest("POST", path)
    for context in contexts:
        connection.putheader("traceparent", str(context))
    connection.putheader("Content-Length", str(len(content)))
    connection.endheaders(content)
    status = connection.getresponse().status
    connection.close()
    return status


def named(spans: Sequence[Received], name: SpanName) -> Received:
    (found,) = [span for span in spans if span.name == name]
    return found


def requests_in(collector: Collector) -> list[Received]:
    return [span for span in collector.spans if span.name == SpanName.REQUEST]


def metric(port: int, name: str) -> int:
    page = get(f"http://127.0.0.1:{port}{METRICS}")
    return sum(int(line.split()[-1]) for line in page.splitlines() if line.startswith(f"sealserve_server_{name}"))


def test_a_request_has_one_trace_from_its_client_to_tensorflow(traced: Traced, channel: grpc.Channel) -> None:
    caller = TraceContext.start()
    ask(channel, ("traceparent", str(caller)), ("tracestate", "a=b"), ("baggage", "secret=1"))
    request = traced.request(caller, SpanName.QUEUE, SpanName.TENSORFLOW)
    assert request.attributes == {
        Attribute.RPC_SYSTEM: "grpc", Attribute.RPC_METHOD: f"{SERVICE}/Predict", Attribute.RPC_STATUS: "OK",
    }  # fmt: skip
    assert request.kind == 2
    assert request.resource["service.name"] == "sealserve-model-server"
    assert set(request.resource) == {"service.name", "service.version", "service.instance.id"}
    assert not any(unknown_fields(message) for message in traced.collector.messages)
    assert not any(word in message for message in traced.collector.messages for word in (b"a=b", b"secret", b"half"))


def test_the_start_is_a_trace_of_its_own(traced: Traced) -> None:
    root = named(traced.collector.wait(lambda spans: "start" in {span.name for span in spans}), SpanName.START)
    spans = traced.collector.trace(root.trace, "start", "load", "warm-up")
    load = named(spans, SpanName.LOAD)
    assert (root.parent, load.parent, named(spans, SpanName.WARM_UP).parent) == ("", root.span, load.span)
    assert not any(span.failed for span in spans)


def test_requests_over_rest_are_traced_too(traced: Traced) -> None:
    caller, wrong = TraceContext.start(), TraceContext.start()
    assert post(traced.rest, PATH, {"instances": [1.0]}, caller) == 200
    request = traced.request(caller, SpanName.QUEUE, SpanName.TENSORFLOW)
    route = "/v1/models/{model}:predict"
    assert request.attributes == {
        Attribute.HTTP_METHOD: "POST", Attribute.HTTP_ROUTE: route, Attribute.HTTP_STATUS: 200,
    }  # fmt: skip
    assert post(traced.rest, PATH, {"instances": ["canary"]}, wrong) == 400
    refused_request = traced.request(wrong, SpanName.QUEUE)
    assert (refused_request.attributes[Attribute.HTTP_STATUS], refused_request.failed) == (400, False)


def test_hostile_contexts_change_nothing(traced: Traced, channel: grpc.Channel) -> None:
    caller, last = TraceContext.start(), TraceContext.start()
    unsampled = TraceContext(caller.trace_id, caller.span_id, sampled=False)
    assert post(traced.rest, "/v1/models/m/canary", {}, caller) in {400, 404}  # not a prediction
    assert post(traced.rest, PATH, {"instances": [1.0]}) == 200
    assert post(traced.rest, PATH, {"instances": [1.0]}, caller, caller) == 200  # repeated, so it is invalid
    ask(channel)
    for value in ("", "00", "x" * 4000, f"{caller}-00", f"ff{str(caller)[2:]}", str(caller).upper(), str(unsampled)):
        assert list(ask(channel, ("traceparent", value)).outputs["y"].float_val) == [2.5, 3.0]
    ask(channel, ("traceparent", str(last)))
    traced.request(last)
    assert not [span for span in requests_in(traced.collector) if span.trace == caller.trace or not span.parent]


def test_nothing_of_a_request_or_a_model_is_in_any_span(traced: Traced, channel: grpc.Channel) -> None:
    contexts = [TraceContext.start() for _ in range(10)]
    headers = [("traceparent", str(context)) for context in contexts]
    error: Any = refused(lambda: ask(channel, headers[0], signature="number", text="canary"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    refused(lambda: ask(channel, headers[1], signature="canary"))
    refused(lambda: ask(channel, headers[2], canary=1.0))
    for header, name in zip(headers[3:6], ("Classify", "Regress", "MultiInference"), strict=True):
        call: Any = channel.unary_unary(f"/{SERVICE}/{name}")
        refused(lambda call=call, header=header: call(b"\xffcanary", timeout=LONG, metadata=[header]))  # type: ignore[misc]
    for context, verb in zip(contexts[6:9], VERBS, strict=True):
        post(traced.rest, f"/v1/models/canary/versions/7:{verb}", {"canary": 1}, context)
    ask(channel, headers[9], x=[771177.0])
    for context in contexts:
        traced.request(context)
    assert traced.request(contexts[0], SpanName.TENSORFLOW).attributes[Attribute.RPC_STATUS] == "INVALID_ARGUMENT"
    allowed: dict[Attribute, set[str] | set[int]] = {
        Attribute.RPC_SYSTEM: {"grpc"},
        Attribute.RPC_METHOD: {f"{SERVICE}/{name}" for name in ("Predict", "Classify", "Regress", "MultiInference")},
        Attribute.RPC_STATUS: {code.name for code in grpc.StatusCode},
        Attribute.HTTP_METHOD: {"POST"},
        Attribute.HTTP_ROUTE: {f"/v1/models/{{model}}:{verb}" for verb in VERBS},
        Attribute.HTTP_STATUS: set(range(200, 600)),
    }
    for span in traced.collector.spans:
        assert span.name in set(SpanName)
        assert all(value in allowed[Attribute(name)] for name, value in span.attributes.items())
    assert not any(word in message for message in traced.collector.messages for word in (b"canary", b"number"))


def test_requests_of_a_batch_have_the_time_until_the_batch_and_its_run(
    model: Path, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "batching.config").write_text("max_batch_size { value: 4 } batch_timeout_micros { value: 60000000 }")
    batching = ("--enable_batching", f"--batching_parameters_file={tmp_path}/batching.config")
    contexts = [TraceContext.start() for _ in range(4)]
    with collecting() as collector:
        server = start(*flags(model, collector, *batching))
        with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as opened, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda context: ask(opened, ("traceparent", str(context)), x=[1.0]), contexts))
        runs = set()
        for context in contexts:
            spans = collector.trace(context.trace, "request", "queue", "batch", "tensorflow")
            batch, run = named(spans, SpanName.BATCH), named(spans, SpanName.TENSORFLOW)
            assert batch.end <= run.start
            runs.add(run.end - run.start)
        assert len(runs) == 1  # all four ran together


def test_sampled_requests_have_a_limit_and_the_rest_is_counted(model: Path, start: Start) -> None:
    port, caller = free_port(), TraceContext.start()
    more = ("--traces_percent=100", "--traces_per_second=5", f"--monitoring_port={port}")
    with collecting() as collector:
        server = start(*flags(model, collector, *more))
        with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as opened:
            ask(opened)  # without a context, the ratio decides
            for _ in range(100):
                ask(opened, ("traceparent", str(caller)))
        wait_until(lambda: metric(port, "untraced_requests_total") > 0)
        server.signal()
        assert server.ended() == 0  # the last spans are sent before the end
        requests = requests_in(collector)
        assert [span.parent for span in requests].count("") == 1
        assert 5 <= len(requests) < 101


def test_a_dead_collector_neither_fails_a_request_nor_holds_up_the_end(model: Path, start: Start) -> None:
    port = free_port()
    server = start(*flags(model, Collector(port=free_port()), "--traces_percent=100", f"--monitoring_port={port}"))
    with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as opened:
        assert half_plus_two(opened, 2) == [3.0]
    wait_until(lambda: metric(port, 'spans_total{outcome="dropped"}') > 0)
    server.signal()
    assert server.ended() == 0
    assert server.output.count("the trace collector does not accept spans (UNAVAILABLE)") == 1


def test_a_failed_start_is_traced_too(tmp_path: Path, start: Start) -> None:
    broken = tmp_path / "m/1"
    broken.mkdir(parents=True)
    (broken / "saved_model.pb").write_bytes(b"not a model")
    with collecting() as collector:
        server = start(*flags(broken.parent, collector, "--max_num_load_retries=0"))
        assert server.ended() != 0
        spans = collector.wait(lambda spans: {"start", "load"} <= {span.name for span in spans})
        assert all(span.failed for span in spans)


def test_the_collector_is_verified_with_the_given_ca(tmp_path: Path, start: Start) -> None:
    (tmp_path / "m/1").mkdir(parents=True)  # a load that fails is enough for a span
    (tmp_path / "m/1/saved_model.pb").write_bytes(b"not a model")
    now = datetime.now(UTC)
    trusted, other = (
        Authority.create(AuthorityKind.SERVICE, names=["localhost"], simulated=True, now=now) for _ in range(2)
    )
    place = tmp_path / "ca.pem"
    with collecting(certificate=trusted.issue_server(["localhost"], now=now)) as collector:
        given = [
            f"--model_base_path={tmp_path}/m", "--max_num_load_retries=0", "--dangerous_plaintext",
            f"--traces_ca_file={place}", f"--traces_endpoint=https://localhost:{collector.port}",
        ]  # fmt: skip
        for authority, received in ((other, 0), (trusted, 1)):
            place.write_bytes(authority.certificate_pem)
            server = start(*given)
            assert server.ended() != 0
            assert bool(collector.messages) == bool(received)
            assert ("does not accept spans" in server.output) != bool(received)
        place.write_bytes(b"not a certificate")
        server = start(*given)
        assert server.ended() == 2
        assert "error[certificate.unreadable]" in server.output
