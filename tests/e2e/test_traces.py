"""A whole deployment whose enclave sends traces: its start, and one request from the command line to TensorFlow."""

import pytest
from tests.harness.running import deployment
from tests.harness.trace_collector import collecting

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]


def test_one_trace_shows_a_request_from_predict_to_tensorflow(capsys: pytest.CaptureFixture[str]) -> None:
    with collecting() as collector:
        traces = {"endpoint": collector.plain, "dangerous_plaintext": True}
        with deployment(capsys, server={"traces": traces}) as here:
            here.up("--replicas", "1")
            # The start of the replica, inside the enclave.
            spans = collector.wait(lambda spans: "start" in {span.name for span in spans})
            (start,) = [span for span in spans if span.name == "start"]
            stages = collector.trace(start.trace, "start", "attest", "key", "unseal", "load", "warm-up")
            assert [span.name for span in stages] == ["start", "attest", "key", "unseal", "load", "warm-up"]
            parents = {span.span: span.name for span in stages}
            assert [parents.get(span.parent) for span in stages] == [None, "start", "attest", "start", "start", "load"]
            assert start.resource["service.name"] == "sealserve-model-server"
            # A request, through NGINX.
            made = here.json("predict", "--trace-collector", collector.plain)
            spans = collector.trace(made["trace"], "predict", "request", "queue", "tensorflow")
            assert [span.name for span in spans] == ["predict", "request", "queue", "tensorflow"]
            parents = {span.span: span.name for span in spans}
            assert [parents.get(span.parent) for span in spans] == [None, "predict", "request", "request"]
            assert {span.resource["service.name"] for span in spans} == {"sealserve-client", "sealserve-model-server"}
            assert not any(span.failed for span in spans)
            here.ok("down", "--yes")
