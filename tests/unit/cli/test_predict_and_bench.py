import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.harness.command_line import CommandLine
from tests.harness.trace_collector import collecting
from tests.harness.workspaces import Site, make_site
from tests.unit.client.conftest import Behaviour
from tests.unit.client.conftest import Service as Handler

from sealserve.cli.predict import _jsonable
from sealserve.client.wire import types_pb2 as types
from sealserve.client.wire.get_model_metadata_pb2 import (
    GetModelMetadataResponse,
    SignatureDef,
    SignatureDefMap,
    TensorInfo,
)
from sealserve.client.wire.tensor_shape_pb2 import TensorShapeProto
from sealserve.owner.certificates import fresh_ssl_config
from sealserve.tracing.trace_context import TRACEPARENT, TraceContext

INSTANCE = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Service:
    """A workspace whose service is a small server in this process."""

    site: Site
    behaviour: Behaviour
    address: str


@dataclass(frozen=True, slots=True)
class Served(Service):
    """The same, and the command line."""

    cli: CommandLine


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("served")
    site = make_site(folder)
    site.certify()
    tls = fresh_ssl_config(site.workspace, site.deployment, now=site.now)
    behaviour = Behaviour(instance=INSTANCE)
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[Handler(behaviour)])
        credentials = grpc.ssl_server_credentials(
            [(tls.server_key.reveal(), tls.server_cert)], root_certificates=tls.custom_ca, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        site = make_site(folder, source=site.deployment.model.path, service={"port": port})
        try:
            yield Service(site, behaviour, f"127.0.0.1:{port}")
        finally:
            server.stop(None).wait()


@pytest.fixture
def served(service: Service, capsys: pytest.CaptureFixture[str]) -> Iterator[Served]:
    yield Served(service.site, service.behaviour, service.address, CommandLine(capsys, service.site.directory))
    service.behaviour.abort = service.behaviour.metadata = None
    service.behaviour.requests = []
    service.behaviour.sent = []


def test_one_request(served: Served) -> None:
    answer = served.cli.json("predict", "--input", "input=[[1, 2, 3]]")
    assert answer["outputs"] == {"input": [[2, 4, 6]]}
    assert (answer["model"], answer["version"]) == ("half-plus-two", 2)
    assert (answer["random_inputs"], answer["seed"]) == ([], None)
    answer = served.cli.json("predict", "--seed", "7")
    assert (answer["random_inputs"], answer["seed"]) == (["input"], 7)
    lines = served.cli.ok("predict", "--version", "7", "--batch", "2").splitlines()
    assert re.fullmatch(r"half-plus-two version 7, random input \(seed 0\), \d+ ms:", lines[0])
    assert lines[1] == "input: float32, 2 x 3"


def test_outputs_are_saved(served: Served, tmp_path: Path) -> None:
    served.cli.ok("predict", "-i", "input=[[1, 2, 3]]", "--save", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["input"].tolist() == [[2, 4, 6]]
    assert served.cli.error("predict", "--save", tmp_path / "out.npz")["code"] == "file.exists"
    served.cli.ok("predict", "--save", tmp_path / "out.npz", "--force")


def metadata(**inputs: types.DataType) -> GetModelMetadataResponse:
    """Return what a model with these inputs, each of any shape, is."""
    made = SignatureDef(
        method_name="tensorflow/serving/predict",
        inputs={
            name: TensorInfo(dtype=data_type, tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1)]))
            for name, data_type in inputs.items()
        },
    )
    reply = GetModelMetadataResponse()
    packed = reply.metadata["signature_def"]
    packed.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    packed.value = SignatureDefMap(signature_def={"serving_default": made}).SerializeToString()
    return reply


def test_outputs_of_any_name_and_strings_are_saved_for_their_owner(served: Served, tmp_path: Path) -> None:
    served.behaviour.metadata = metadata(file=types.DT_FLOAT, allow_pickle=types.DT_FLOAT, words=types.DT_STRING)
    saved_to = tmp_path / "out.npz"
    served.cli.ok("predict", "-i", "file=[1]", "-i", "allow_pickle=[2]", "-i", 'words=["é", "ab"]', "--save", saved_to)
    assert saved_to.stat().st_mode & 0o777 == 0o600
    with np.load(saved_to) as saved:
        assert set(saved.files) == {"file", "allow_pickle", "words"}
        assert saved["allow_pickle"].tolist() == [4]
        assert saved["words"].tolist() == ["éé".encode(), b"abab"]


def test_a_single_output_is_saved_as_an_array(served: Served, tmp_path: Path) -> None:
    served.cli.ok("predict", "-i", "input=[[1, 2, 3]]", "--save", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy", allow_pickle=False).tolist() == [[2, 4, 6]]
    served.behaviour.metadata = metadata(one=types.DT_FLOAT, two=types.DT_FLOAT)
    several = served.cli.error("predict", "--save", tmp_path / "both.npy")
    assert (several["code"], several["status"]) == ("predict.output-format", 2)
    assert several["message"] == (f"{tmp_path}/both.npy cannot store the outputs: expected one output for .npy, got 2.")
    served.behaviour.requests = []
    unknown = served.cli.error("predict", "--save", tmp_path / "out.csv")
    assert unknown["message"] == (
        f"The format of the output file is unknown: expected a name that ends in .npz or .npy, got {tmp_path}/out.csv."
    )
    assert served.behaviour.requests == []
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


@pytest.mark.parametrize("verb", ["predict", "bench"])
def test_an_input_that_was_forgotten_is_not_made_up(served: Served, verb: str) -> None:
    served.behaviour.metadata = metadata(item_id=types.DT_STRING, user_id=types.DT_STRING)
    error = served.cli.error(verb, "-i", 'user_id=["ann"]')
    assert (error["code"], error["status"]) == ("predict.input", 2)
    assert error["message"] == (
        "Inputs are missing: the signature needs item_id, user_id, but no value was given for item_id."
    )
    assert "--input item_id=random" in error["hint"]
    given = ("-i", 'user_id=["ann"]', "-i", "item_id=random")
    if verb == "predict":
        answer = served.cli.json(verb, *given, "--seed", "3")
        assert (answer["random_inputs"], answer["seed"]) == (["item_id"], 3)
        assert ", random item_id (seed 3), " in served.cli.ok(verb, *given, "--seed", "3")
    else:
        assert served.cli.json(verb, *given, "-n", "3")["answered"] == 3


def test_an_input_with_a_default_value_may_be_left_out(served: Served) -> None:
    reply = metadata(x=types.DT_FLOAT, scale=types.DT_FLOAT)
    packed = reply.metadata["signature_def"]
    signatures = SignatureDefMap.FromString(packed.value)
    signatures.signature_def["serving_default"].defaults["scale"].dtype = types.DT_FLOAT
    packed.value = signatures.SerializeToString()
    served.behaviour.metadata = reply
    assert served.cli.json("predict", "-i", "x=[1]")["outputs"] == {"x": [2]}
    assert served.cli.error("predict", "-i", "scale=[1]")["message"].endswith("no value was given for x.")


def test_the_same_inputs_many_times(served: Served) -> None:
    served.behaviour.metadata = metadata(words=types.DT_STRING)
    report = served.cli.json("bench", "-n", "4", "-i", 'words=["a", {"b64": "/w=="}]')
    assert (report["answered"], report["errors"]) == (4, {})


def test_what_a_model_takes_is_found_out(served: Served) -> None:
    """Requests are sent until the service accepts generated inputs. Otherwise the first refusal is reported."""
    served.behaviour.metadata = metadata(words=types.DT_STRING)
    assert served.cli.json("bench", "-n", "4")["answered"] == 4
    served.behaviour.abort = (grpc.StatusCode.INVALID_ARGUMENT, "no number")
    error = served.cli.error("predict")
    assert (error["code"], "no number" in error["message"]) == ("client.refused", True)


def test_strings_are_printed_as_text(served: Served) -> None:
    served.behaviour.metadata = metadata(words=types.DT_STRING)
    lines = served.cli.ok("predict", "-i", 'words=["Schön", {"b64": "//8="}]').splitlines()
    assert lines[1:] == ["words: string, 2", '  ["SchönSchön" 4 bytes: ffffffff]']


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "client.refused", "names, types and shapes of the inputs"),
        (grpc.StatusCode.NOT_FOUND, "client.refused", "name of the model, and its version or label"),
        (grpc.StatusCode.FAILED_PRECONDITION, "client.refused", "name of the signature"),
        (grpc.StatusCode.OUT_OF_RANGE, "client.refused", "values of the inputs"),
        (grpc.StatusCode.UNIMPLEMENTED, "client.refused", "address"),
        (grpc.StatusCode.PERMISSION_DENIED, "client.refused", "client certificate"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "client.service-failed", "fewer requests"),
        (grpc.StatusCode.ABORTED, "client.service-failed", "shapes of the inputs"),
        (grpc.StatusCode.INTERNAL, "client.service-failed", "`sealserve logs`"),
    ],
)
def test_the_hint_fits_the_refusal(served: Served, status: grpc.StatusCode, code: str, hint: str) -> None:
    served.behaviour.abort = (status, "no\n\twords")
    error = served.cli.error("predict", "-i", "input=[[1, 2, 3]]")
    assert error["code"] == code
    assert hint in error["hint"]
    assert f"({status.name}): no words." in error["message"]


@pytest.mark.parametrize("verb", ["predict", "bench"])
def test_a_version_is_chosen_by_number_or_label(served: Served, verb: str) -> None:
    count = ("-n", "2") if verb == "bench" else ()
    served.cli.ok(verb, "--label", "stable", *count)
    assert {request.model_spec.version_label for request in served.behaviour.requests} == {"stable"}
    served.behaviour.requests = []
    served.cli.ok(verb, "--version", "3", *count)
    assert {request.model_spec.version.value for request in served.behaviour.requests} == {3}
    served.behaviour.requests = []
    for options in (("--label", "stable", "--version", "3"), ("--label", "")):
        error = served.cli.error(verb, *options)
        assert (error["code"], error["status"]) == ("client.version-choice", 2)
        assert "expected a number or a label, got " in error["message"]
    assert served.behaviour.requests == []


def test_a_whole_request_and_a_file_as_a_string(served: Served, tmp_path: Path) -> None:
    assert served.cli.json("predict", "-i", '{"instances": [[1, 2, 3]]}')["outputs"] == {"input": [[2, 4, 6]]}
    served.behaviour.metadata = metadata(image_bytes=types.DT_STRING)
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    served.behaviour.requests = []
    served.cli.ok("predict", "-i", f"image_bytes=@{tmp_path}/p.png")
    assert served.behaviour.requests[-1].inputs["image_bytes"].string_val == [b"\x89PNG\r\n\x1a\n"]
    report = served.cli.json("bench", "-n", "3", "-i", f"image_bytes=@{tmp_path}/p.png")
    assert report["answered"] == 3


def test_a_string_that_numpy_would_cut_is_not_saved(served: Served, tmp_path: Path) -> None:
    served.behaviour.metadata = metadata(words=types.DT_STRING)
    error = served.cli.error("predict", "-i", 'words=["a\\u0000"]', "--save", tmp_path / "out.npz")
    assert (error["code"], error["status"]) == ("predict.output", 4)
    assert error["message"] == (
        "The output 'words' cannot be saved: a string in it ends in a zero byte, which numpy's format cannot store."
    )
    assert list(tmp_path.glob("*out.npz*")) == []


def test_an_existing_file_is_refused_before_anything_is_sent(served: Served, tmp_path: Path) -> None:
    (tmp_path / "out.npz").touch()
    assert served.cli.error("predict", "--save", tmp_path / "out.npz")["code"] == "file.exists"
    assert served.behaviour.requests == []


def test_strings_are_text_in_json(served: Served) -> None:
    served.behaviour.metadata = metadata(words=types.DT_STRING)
    assert served.cli.json("predict", "-i", 'words=["é", "b"]')["outputs"] == {"words": ["éé", "bb"]}
    assert _jsonable([[b"a", b"\xff"]]) == [["a", {"b64": "/w=="}]]


def test_integers_are_shown_in_full(served: Served) -> None:
    served.behaviour.metadata = metadata(ids=types.DT_INT64)
    text = served.cli.ok("predict", "-i", "ids=[[123456789, 1, 2, 3, 4, 5]]")
    assert "  largest: [0] 246913578, [5] 10," in text


@pytest.mark.parametrize("name", ["a[/b]", "[red]x"])
def test_a_models_name_is_shown_as_it_is(served: Served, name: str) -> None:
    assert served.cli.ok("predict", "--model", name).startswith(f"{name} version 2, ")


def test_what_the_service_names_cannot_move_the_cursor(served: Served) -> None:
    served.behaviour.metadata = metadata(**{"\x1b[2J": types.DT_FLOAT})
    assert served.cli.ok("predict").splitlines()[1] == "?[2J: float32, 1"
    assert "(?[2J)" in served.cli("predict", "-i", "x=1").err


@pytest.mark.parametrize("verb", ["predict", "bench"])
@pytest.mark.parametrize("name", ["\x1b[31m", "\udcff"])
def test_a_model_has_a_name_that_can_be_printed(served: Served, verb: str, name: str) -> None:
    error = served.cli.error(verb, "--model", name)
    assert (error["code"], error["status"]) == ("predict.input", 2)
    assert error["message"].startswith("The name of the model is invalid: ")


@pytest.mark.parametrize(
    "options", [("--version", str(2**63)), ("--seed", "-1"), ("--timeout", "inf"), ("--timeout", "1e15")]
)
def test_numbers_out_of_range_are_refused(served: Served, options: tuple[str, str]) -> None:
    result = served.cli("predict", *options)
    assert result.status == 2
    assert result.err.startswith(f"error[usage.value]: sealserve predict: {options[0]}: expected a number of at ")
    assert served.behaviour.requests == []


def test_the_largest_of_many_are_shown(served: Served) -> None:
    row = ", ".join(str(number) for number in range(10))
    text = served.cli.ok("predict", "-i", f"input=[[{row}]]")
    assert "  largest: [9] 18, [8] 16, [7] 14, [6] 12, [5] 10" in text


def test_without_a_workspace(served: Served, tmp_path: Path) -> None:
    user = served.site.workspace.user
    options: list[str | Path] = ["--address", served.address, "--server-name", "grpc.tf-serving.service.com"]
    options += ["--ca", user.service_ca, "--cert", user.certificate, "--key", user.key]
    assert served.cli.bare("predict", *options, "--model", "toy", "--json").json["model"] == "toy"
    message = "The model is not specified: expected --model, or a deployment or bundle with exactly one model."
    nameless = served.cli.bare("predict", *options)
    assert nameless.status == 2
    assert nameless.err == f"error[predict.input]: {message}\n  Name the model with --model.\n"
    assert served.cli.bare("bench", *options, "--json").error["message"] == message
    half = served.cli.bare("predict", *options[:-2], "--model", "toy", "--json")
    assert (half.error["code"], half.error["message"]) == (
        "client.options",
        "The client certificate is incomplete: expected --cert and --key, got only --cert.",
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    empty = served.cli.bare("predict", *options[:4], "--ca", tmp_path / "empty", "--model", "toy", "--json")
    assert empty.error["code"] == "certificate.unreadable"
    no_ca = served.cli.bare("predict", *options[:4], "--ca", tmp_path / "folder", "--model", "toy", "--json")
    assert no_ca.error["code"] in ("input-file.unreadable", "input-file.not-regular")


@pytest.mark.parametrize("verb", ["predict", "bench"])
def test_a_bundle_is_enough(served: Served, tmp_path: Path, verb: str) -> None:
    count = ("-n", "2") if verb == "bench" else ()
    path = tmp_path / "default.json"
    served.cli.ok("client", "bundle", "-o", path)
    answer = served.cli.bare(verb, "--bundle", path, *count, "--json")
    assert answer.status == 0, answer
    path.chmod(0o644)
    assert (
        f"warning: {path} contains a private key, and other users can access it."
        in served.cli.bare(verb, "--bundle", path, *count).err
    )
    both = served.cli.bare(verb, "--bundle", path, "--server-name", "x", "--json")
    assert (both.error["code"], both.status) == ("client.options", 2)
    elsewhere = served.cli.bare(verb, "--bundle", path, "--address", "127.0.0.1:1", "--timeout", "0.3", "--json")
    assert elsewhere.error["code"] == "client.unreachable"
    nothing = served.cli.bare(verb, "--directory", tmp_path, "--json")
    assert nothing.error["code"] == "workspace.missing"
    assert "--bundle FILE" in nothing.error["hint"]


def test_what_the_options_give_need_not_be_in_the_workspace(served: Served, tmp_path: Path) -> None:
    user = served.site.workspace.user
    given = [path.rename(tmp_path / path.name) for path in (user.service_ca, user.certificate, user.key)]
    ca, certificate, key = given
    try:
        assert "warning" not in served.cli("predict", "--ca", ca, "--cert", certificate, "--key", key).err
        key.chmod(0o640)
        exposed = served.cli("predict", "--ca", ca, "--cert", certificate, "--key", key)
        assert exposed.status == 0
        assert (
            f"warning: {key} contains a private key, and other users can access it. Run `chmod 600 {key}`."
            in exposed.err
        )
        key.chmod(0o600)
        assert served.cli.error("predict", "--ca", ca)["code"] == "certificate.missing"
        missing = served.cli.error("predict", "--cert", certificate, "--key", key)
        assert missing["message"] == (
            f"The service's CA certificate does not exist: expected the file {user.service_ca}."
        )
    finally:
        for path in given:
            path.rename(user.service_ca.parent / path.name)


def test_inputs_and_signatures_that_the_model_does_not_have(served: Served) -> None:
    error = served.cli.error("predict", "--signature", "other")
    assert (error["code"], error["status"]) == ("predict.input", 2)
    assert error["message"] == (
        "The signature 'other' does not exist in the model half-plus-two; its signatures are serving_default."
    )
    assert served.cli.error("bench", "--signature", "other")["message"] == error["message"]
    assert "(input)" in served.cli.error("predict", "--input", "x=1")["message"]


def test_many_requests(served: Served) -> None:
    report = served.cli.json("bench", "-n", "20", "-c", "3", "--connections", "2", "--batch", "4")
    assert (report["requests"], report["answered"], report["errors"]) == (20, 20, {})
    assert report["instances"] == {INSTANCE: 20}
    assert report["connections"] == [10, 10]
    assert set(report["latency_seconds"]) == {"mean", "p50", "p90", "p99", "maximum"}
    assert "error" not in report
    lines = served.cli.ok("bench", "--requests", "5").splitlines()
    assert lines[0].startswith("answered  5 of 5 in ")
    assert lines[-1].split() == ["replicas", "01234567:", "5"]


def test_requests_that_fail_are_counted_and_told_once(served: Served) -> None:
    class Requests(list[object]):
        def append(self, item: object) -> None:
            super().append(item)
            if len(self) == 4:  # the metadata, two requests, and the first that fails
                served.behaviour.abort = (grpc.StatusCode.UNAVAILABLE, "down")

    served.behaviour.requests = Requests()
    result = served.cli("bench", "-n", "10", "-c", "1", "--json")
    report = result.json
    assert report["answered"] == 2
    assert sum(report["errors"].values()) == 8
    assert report["error"]["code"] in report["errors"]
    assert result.status == 4
    text = served.cli("bench", "-n", "3")
    assert text.status != 0
    assert text.err.count("error[") == 1


def test_nobody_serves(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    site = make_site(tmp_path / "down", service={"port": 1})
    site.certify()
    error = CommandLine(capsys, site.directory).error("predict", "--timeout", "0.3")
    assert error["status"] == 4
    assert error["code"].startswith("client.")


def test_another_users_certificate_is_refused(served: Served, tmp_path: Path) -> None:
    stranger = make_site(tmp_path / "stranger")
    stranger.certify()
    user = stranger.workspace.user
    error = served.cli.error("predict", "--cert", user.certificate, "--key", user.key, "--timeout", "10")
    assert error["status"] in (3, 4)
    assert error["code"].startswith("client.")
    service = served.cli.error("predict", "--ca", user.service_ca, "--timeout", "10")
    assert service["status"] == 3


def test_rest_must_be_on_or_have_an_address(served: Served) -> None:
    result = served.cli("predict", "--rest")
    assert result.status == 2
    assert result.err.startswith("error[client.rest-off]: The REST API cannot be used: expected server.rest = true in ")
    # A given address takes precedence over sealserve.toml: here it is the address of gRPC.
    result = served.cli("predict", "--rest", "--address", served.address)
    assert "error[client." in result.err
    assert "REST port" in result.err


def contexts_of(served: Served) -> list[TraceContext | None]:
    return [TraceContext.parse(str(value)) for name, value in served.behaviour.sent if name == TRACEPARENT]


def test_a_request_is_traced_only_on_request(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", "not a context")
    assert "trace" not in served.cli.json("predict")
    assert "\ntrace " not in served.cli.ok("predict")
    assert contexts_of(served) == []
    shown = served.cli.ok("predict", "--trace").splitlines()[-1]
    (context,) = contexts_of(served)
    assert context is not None
    assert context.sampled
    assert shown == f"trace {context.trace}"


def test_a_request_continues_the_trace_of_the_calling_program(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = TraceContext.start()
    monkeypatch.setenv("TRACEPARENT", str(caller))
    with collecting() as collector:
        assert served.cli.json("predict", "--trace-collector", collector.plain)["trace"] == caller.trace
        (span,) = collector.trace(caller.trace, "predict")
    (context,) = contexts_of(served)
    assert context is not None
    assert (span.span, span.parent) == (f"{context.span_id:016x}", f"{caller.span_id:016x}")
    assert (span.kind, span.failed, span.attributes) == (3, False, {})
    assert span.resource["service.name"] == "sealserve-client"


def test_a_failed_request_has_a_failed_span_with_nothing_of_its_error(served: Served) -> None:
    served.behaviour.abort = (grpc.StatusCode.INTERNAL, "canary")
    served.behaviour.metadata = None
    with collecting() as collector:
        served.cli("predict", "--trace-collector", collector.plain)
        spans = list(collector.spans)
        assert all(span.failed for span in spans)
        assert not any(b"canary" in message for message in collector.messages)


def test_the_client_does_not_depend_on_its_collector(served: Served) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        result = served.cli("predict", "--trace-collector", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert result.status == 0
    assert "did not accept the client's span" in result.err


def test_the_collector_of_a_client_needs_tls(served: Served, tmp_path: Path) -> None:
    error = served.cli.error("predict", "--trace-collector", "http://collector.example.com:4317")
    assert error["code"] == "traces.endpoint"
    assert "has no TLS" in error["message"]
    assert served.cli.error("predict", "--trace-ca", "ca.pem")["code"] == "client.options"
    (tmp_path / "ca.pem").write_text("nothing")
    error = served.cli.error(
        "predict", "--trace-collector", "https://localhost:4317", "--trace-ca", str(tmp_path / "ca.pem")
    )
    assert error["code"] == "certificate.unreadable"
    assert served.behaviour.requests == []
