"""The program itself: started as a process, asked with TensorFlow Serving's own stubs, stopped with signals."""

import hashlib
import json
import os
import queue
import shutil
import signal
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness.model_server import (
    CANARY,
    CLIENT,
    LONG,
    SERVER_ON_THE_PUBLIC_API,
    SERVICE,
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

from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.ssl_config import SslConfig

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]


def list_files(release: Path) -> None:
    files = [
        {
            "path": path.relative_to(release).as_posix(),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in release.rglob("*")
        if path.is_file()
    ]
    (release / "files.json").write_text(json.dumps({"version": 1, "files": files}))


@pytest.fixture
def release(model: Path, tls: Tls, tmp_path: Path) -> Path:
    """A folder as it appears inside an enclave."""
    folder = tmp_path / "release"
    shutil.copytree(model, folder / "models/m")
    (folder / "tls").mkdir()
    (folder / "tls/ssl.cfg").write_bytes(tls.settings(two_way=True))
    list_files(folder)
    return folder


def release_flags(release: Path) -> list[str]:
    return [
        f"--model_base_path={release}/models/m",
        f"--ssl_config_file={release}/tls/ssl.cfg",
        f"--file_list={release}/files.json",
        "--rest_api_port=0",
    ]


@pytest.fixture(scope="module")
def plain_port(model: Path) -> Iterator[int]:
    """The port of a plaintext server that tests share and leave alone."""
    process = Process(["--port=0", f"--model_base_path={model}", "--dangerous_plaintext"])
    try:
        yield process.port()
    finally:
        process.close()


@pytest.fixture
def channel(plain_port: int) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{plain_port}") as opened:
        yield opened


# --- what it answers --------------------------------------------------------------------------------------------------


def test_the_official_stubs_are_served(channel: grpc.Channel) -> None:
    from tensorflow_serving.apis import (  # noqa: PLC0415  # the model's fixture has paid for it
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
        model_service_pb2_grpc,
    )

    response = predict(channel, x=[1.0, 2.0, 5.0])
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 1)

    metadata_request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata_request.model_spec.name = "m"
    metadata = prediction_stub(channel).GetModelMetadata(metadata_request, timeout=LONG)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert metadata.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "write", "number"} <= set(signatures.signature_def)

    models = model_service_pb2_grpc.ModelServiceStub(channel)
    status_request = get_model_status_pb2.GetModelStatusRequest()
    status_request.model_spec.name = "m"
    (version,) = models.GetModelStatus(status_request, timeout=LONG).model_version_status
    assert (version.version, version.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)

    error: Any = refused(lambda: models.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest()))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "cannot be changed by clients" in error.details()


def test_what_tensorflow_serving_does_not_register_is_not_there(channel: grpc.Channel) -> None:
    error: Any = refused(lambda: raw(channel, "/tensorflow.serving.SessionService/SessionRun")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_profiler_is_refused_by_name(channel: grpc.Channel) -> None:
    error: Any = refused(lambda: raw(channel, "/tensorflow.ProfilerService/Profile")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details().startswith("The profiler is disabled")


def test_classify_regress_and_multi_inference_are_served(channel: grpc.Channel) -> None:
    from tensorflow_serving.apis import (  # noqa: PLC0415  # the model's fixture has paid for it
        classification_pb2,
        inference_pb2,
        regression_pb2,
    )

    stub = prediction_stub(channel)
    regression = regression_pb2.RegressionRequest()
    regression.model_spec.name = "m"
    regression.model_spec.signature_name = "regress"
    regression.input.example_list.examples.add().features.feature["x"].float_list.value.append(2.0)
    assert stub.Regress(regression, timeout=LONG).result.regressions[0].value == 3.0
    classification = classification_pb2.ClassificationRequest()
    classification.model_spec.name = "m"
    classification.model_spec.signature_name = "classify"
    classification.input.CopyFrom(regression.input)
    (row,) = stub.Classify(classification, timeout=LONG).result.classifications
    assert [(entry.label, entry.score) for entry in row.classes] == [("", 3.0)]
    both = inference_pb2.MultiInferenceRequest()
    both.input.CopyFrom(regression.input)
    for signature in ("regress", "classify"):
        task = both.tasks.add(method_name=f"tensorflow/serving/{signature}")
        task.model_spec.name = "m"
        task.model_spec.signature_name = signature
    results = stub.MultiInference(both, timeout=LONG).results
    assert results[0].regression_result.regressions[0].value == 3.0
    assert results[1].classification_result.classifications[0].classes[0].score == 3.0


def test_many_at_once_each_get_their_own_answer(channel: grpc.Channel) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda value: half_plus_two(channel, value), range(200)))
    assert answers == [[value / 2 + 2] for value in range(200)]


def test_health_says_serving(channel: grpc.Channel) -> None:
    assert raw(channel, "/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"


@both_transports
def test_a_sender_who_never_sends_holds_no_thread(start: Start, model: Path) -> None:
    server = start(
        f"--model_base_path={model}", "--dangerous_plaintext", "--grpc_max_threads=1", "--max_queued_requests=0"
    )
    gate = threading.Event()

    def nothing() -> Iterator[bytes]:
        gate.wait()
        yield from ()

    with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
        send: Any = channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
        stalled = [send.future(nothing()) for _ in range(5)]
        try:
            assert half_plus_two(channel, 2.0) == [3.0]
        finally:
            for call in stalled:
                call.cancel()
            gate.set()


@both_transports
def test_a_message_that_is_too_large(start: Start, model: Path) -> None:
    server = start(f"--model_base_path={model}", "--dangerous_plaintext", "--max_message_bytes=1024")
    with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
        assert half_plus_two(channel, *range(100))[:2] == [2.0, 2.5]
        error: Any = refused(lambda: half_plus_two(channel, *range(1000)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert half_plus_two(channel, 2.0) == [3.0]


@both_transports
def test_connections_end_at_the_age_that_the_channel_arguments_set(start: Start, model: Path) -> None:
    server = start(
        f"--model_base_path={model}", "--dangerous_plaintext", "--grpc_channel_arguments=grpc.max_connection_age_ms=100"
    )
    states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
    with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
        channel.subscribe(states.put, try_to_connect=True)
        while states.get(timeout=LONG) is not grpc.ChannelConnectivity.READY:
            pass
        assert states.get(timeout=LONG) is grpc.ChannelConnectivity.IDLE
        assert half_plus_two(channel, 2.0) == [3.0]


# --- models -----------------------------------------------------------------------------------------------------------


@both_transports
def test_models_of_a_file_their_labels_and_batches_and_a_reload_by_operators(
    start: Start, model: Path, tmp_path: Path
) -> None:
    from tensorflow_serving.apis import model_management_pb2  # noqa: PLC0415  # the model's fixture has paid for it

    def config(name: str) -> str:
        versions = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
        return f"config {{ name: '{name}' base_path: '{model}' model_platform: 'tensorflow' {versions} }}"

    (tmp_path / "models.config").write_text(f"model_config_list {{ {config('m')} }}")
    (tmp_path / "batching.config").write_text("max_batch_size { value: 4 } num_batch_threads { value: 2 }")
    server = start(
        f"--model_config_file={tmp_path}/models.config",
        "--allow_version_labels_for_unavailable_models",
        "--enable_batching",
        f"--batching_parameters_file={tmp_path}/batching.config",
        f"--admin_address=unix:{tmp_path}/admin.sock",
        "--dangerous_plaintext",
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda value: half_plus_two(channel, value), range(50)))
        assert answers == [[value / 2 + 2] for value in range(50)]
        labelled = predict_request(x=[2.0])
        labelled.model_spec.version_label = "stable"
        assert prediction_stub(channel).Predict(labelled, timeout=LONG).model_spec.version.value == 1
        reload = model_management_pb2.ReloadConfigRequest()
        for name in ("m", "n"):
            added = reload.config.model_config_list.config.add(name=name, base_path=str(model))
            added.model_platform = "tensorflow"
        method = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
        error: Any = refused(lambda: raw(channel, method)(reload.SerializeToString()))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        with grpc.insecure_channel(f"unix:{tmp_path}/admin.sock") as operators:
            assert raw(operators, method)(reload.SerializeToString(), timeout=LONG) == b"\n\x00"
        other = predict_request(x=[2.0])
        other.model_spec.name = "n"
        assert list(prediction_stub(channel).Predict(other, timeout=LONG).outputs["y"].float_val) == [3.0]
    server.signal()
    assert server.ended() == 0


# --- REST and metrics -------------------------------------------------------------------------------------------------


def test_rest_and_metrics_are_served_where_they_are_asked_for(start: Start, model: Path, tmp_path: Path) -> None:
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true }")
    rest = free_port()
    server = start(
        f"--model_base_path={model}",
        "--dangerous_plaintext",
        f"--rest_api_port={rest}",
        f"--monitoring_config_file={tmp_path}/monitoring.config",
    )
    server.wait_for(rf"serving the REST API on 127\.0\.0\.1:{rest} \(PLAINTEXT\)")
    with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
        assert half_plus_two(channel, 2.0) == [3.0]
    url = f"http://127.0.0.1:{rest}"
    assert json.loads(get(f"{url}/v1/models/m:predict", {"instances": [1, 2, 5]})) == {"predictions": [2.5, 3.0, 4.5]}
    examples = {"signature_name": "regress", "examples": [{"x": 2.0}]}
    assert json.loads(get(f"{url}/v1/models/m:regress", examples)) == {"results": [3.0]}
    page = get(f"{url}/monitoring/prometheus/metrics")
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 3\n' in page
    for api, entrypoint in (("Predict", "GRPC"), ("predict", "REST"), ("regress", "REST")):
        labels = f'model_name="m",API="{api}",entrypoint="{entrypoint}"'
        assert f":tensorflow:serving:request_latency_count{{{labels}}} 1\n" in page
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"{url}/v1/models/m:predict", {"instances": [CANARY]})
    with caught.value as error:
        assert error.code == 400
        assert CANARY not in error.read().decode()
    server.signal()
    assert server.ended() == 0
    assert CANARY not in server.output


def test_rest_and_metrics_have_tls_where_grpc_has(start: Start, model: Path, tls: Tls, tmp_path: Path) -> None:
    (tmp_path / "ssl.cfg").write_bytes(tls.settings(two_way=True))
    (tmp_path / "rest.cfg").write_bytes(tls.settings(two_way=False))
    rest, metrics = free_port(), free_port()
    server = start(
        f"--model_base_path={model}",
        f"--ssl_config_file={tmp_path}/ssl.cfg",
        f"--rest_api_ssl_config_file={tmp_path}/rest.cfg",
        f"--rest_api_port={rest}",
        f"--monitoring_port={metrics}",
    )
    server.port()
    context = ssl.create_default_context(cadata=tls.service.certificate_pem.decode())
    context.check_hostname = False
    assert json.loads(get(f"https://127.0.0.1:{rest}/v1/models/m:predict", {"inputs": [2]}, context)) == {
        "outputs": [3.0]
    }
    page = get(f"https://127.0.0.1:{metrics}/monitoring/prometheus/metrics", None, context)
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 1' in page
    assert "\nsealserve_server_certificate_expiry_timestamp_seconds " in page
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"https://127.0.0.1:{rest}/monitoring/prometheus/metrics", None, context)
    caught.value.close()
    with pytest.raises((urllib.error.URLError, OSError)):
        get(f"http://127.0.0.1:{rest}/v1/models/m")


# --- TLS --------------------------------------------------------------------------------------------------------------


@both_transports
def test_two_way_tls_asks_for_a_certificate_of_the_users_authority(start: Start, release: Path, tls: Tls) -> None:
    server = start(*release_flags(release))
    port = server.port()
    assert "two-way TLS" in server.lines[-1]
    stranger = Authority.create(AuthorityKind.USERS, names=[CLIENT], simulated=True, now=datetime.now(UTC))
    service = tls.service.certificate_pem
    with secure_channel(port, tls, authority=service, client=tls.client) as channel:
        assert half_plus_two(channel, 2.0) == [3.0]
    for client in (None, stranger.issue_client(CLIENT, now=datetime.now(UTC))):
        with secure_channel(port, tls, authority=service, client=client) as channel:
            error: Any = refused(lambda opened=channel: half_plus_two(opened, 2.0))  # type: ignore[misc]  # a default binds it
            assert error.code() is grpc.StatusCode.UNAVAILABLE
    with secure_channel(port, tls, authority=tls.users.certificate_pem, client=tls.client) as channel:
        error = refused(lambda: half_plus_two(channel, 2.0))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "CERTIFICATE_VERIFY_FAILED" in error.details()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        error = refused(lambda: half_plus_two(channel, 2.0))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_one_way_tls_asks_for_none(start: Start, model: Path, tls: Tls, tmp_path: Path) -> None:
    (tmp_path / "ssl.cfg").write_bytes(tls.settings(two_way=False))
    server = start(f"--model_base_path={model}", f"--ssl_config_file={tmp_path}/ssl.cfg")
    port = server.port()
    assert "one-way TLS" in server.lines[-1]
    with secure_channel(port, tls, authority=tls.service.certificate_pem, client=None) as channel:
        assert half_plus_two(channel, 2.0) == [3.0]


@both_transports
def test_a_renewed_certificate_serves_new_connections_and_open_ones_stay(
    start: Start, model: Path, tls: Tls, tmp_path: Path
) -> None:
    path = tmp_path / "ssl.cfg"
    path.write_bytes(tls.settings(two_way=False))
    server = start(f"--model_base_path={model}", f"--ssl_config_file={path}")
    port = server.port()
    now = datetime.now(UTC)
    successor = Authority.create(AuthorityKind.SERVICE, names=[SERVICE], simulated=True, now=now)
    leaf = successor.issue_server([SERVICE], now=now)
    with secure_channel(port, tls, authority=tls.service.certificate_pem, client=None) as old:
        assert half_plus_two(old, 2.0) == [3.0]
        (tmp_path / "new").write_bytes(SslConfig(server_key=leaf.key_pem, server_cert=leaf.chain_pem).render().reveal())
        (tmp_path / "new").replace(path)
        with secure_channel(port, tls, authority=successor.certificate_pem, client=None) as new:
            assert half_plus_two(new, 4.0) == [4.0]
        assert half_plus_two(old, 6.0) == [5.0]
    with secure_channel(port, tls, authority=tls.service.certificate_pem, client=None) as late:
        error: Any = refused(lambda: half_plus_two(late, 2.0))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    server.wait_for("loaded new TLS settings from")


def test_a_version_of_grpcio_that_was_not_tested_is_one_warning(model: Path) -> None:
    server = Process(["--port=0", f"--model_base_path={model}", "--dangerous_plaintext"], SERVER_ON_THE_PUBLIC_API)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
            assert half_plus_two(channel, 2.0) == [3.0]
        server.signal()
        assert server.ended() == 0
    finally:
        server.close()
    assert server.output.count("the fast gRPC transport was not tested with grpcio") == 1


@both_transports
def test_the_number_of_threads_does_not_follow_the_processors(start: Start, model: Path) -> None:
    """gRPC has 4 to 16 threads of its own, by the machine's processors: no setting of it changes that."""
    fixed = [
        *("--grpc_max_threads=3", "--tensorflow_session_parallelism=1", "--num_load_threads=1"),
        *("--file_system_poll_wait_seconds=0", f"--model_base_path={model}", "--dangerous_plaintext"),
    ]
    everywhere = os.sched_getaffinity(0)
    counts = []
    for processors in ({min(everywhere)}, everywhere):
        os.sched_setaffinity(0, processors)  # the server starts with it
        try:
            server = start(*fixed)
        finally:
            os.sched_setaffinity(0, everywhere)
        with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
            assert half_plus_two(channel, 2.0) == [3.0]
            counts.append(len(list(Path(f"/proc/{server.process.pid}/task").iterdir())))
    assert counts[0] == counts[1]


@both_transports
def test_a_unix_socket_can_be_the_only_address(
    start: Start, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("s")
    (folder / "tf.cfg").write_text("allow_soft_placement: true")
    server = start(
        f"--model_base_path={model}",
        "--dangerous_plaintext",
        f"--grpc_socket_path={folder}/s",
        f"--tensorflow_session_config_file={folder}/tf.cfg",
    )
    server.wait_for(rf"serving m version 1 on unix:{folder}/s \(PLAINTEXT\)")
    assert not listens(server)
    with grpc.insecure_channel(f"unix:{folder}/s") as channel:
        assert half_plus_two(channel, 2.0) == [3.0]
    server.signal()
    assert server.ended() == 0
    assert list(folder.iterdir()) == [folder / "tf.cfg"]


def test_settings_of_tensorflow_that_cannot_be_read_end_the_server(start: Start, model: Path, tmp_path: Path) -> None:
    (tmp_path / "tf.cfg").write_text("nonsense: 1")
    server = start(
        f"--model_base_path={model}", "--dangerous_plaintext", f"--tensorflow_session_config_file={tmp_path}/tf.cfg"
    )
    assert server.ended() == 2
    assert "error[config-file.syntax]: " in server.output


def test_plaintext_warns(start: Start, model: Path) -> None:
    server = start(f"--model_base_path={model}", "--dangerous_plaintext")
    server.port()
    assert "WARNING DANGEROUS: serving in plaintext" in server.output
    assert "PLAINTEXT" in server.lines[-1]


# --- how it starts ----------------------------------------------------------------------------------------------------


def listens(process: Process) -> bool:
    """Whether a process has a listening TCP socket (state 0A in Linux's table)."""
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    held = set()
    for descriptor in Path(f"/proc/{process.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            held.add(os.readlink(descriptor))  # noqa: PTH115  # a socket is no path
    return not listening.isdisjoint(held)


def test_the_port_is_closed_while_the_model_loads_and_a_signal_ends_that(start: Start, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    os.mkfifo(first)
    os.mkfifo(second)
    save_slow_starter(tmp_path / "m/1", str(first), str(second))
    server = start(f"--model_base_path={tmp_path}/m", "--dangerous_plaintext")
    assert first.read_bytes() == b"started"
    assert not listens(server)
    server.signal()
    server.wait_for("stopped before the model was loaded")
    assert server.ended() == 0


def save_slow_starter(folder: Path, first: str, second: str) -> None:
    """Save a model whose initialiser writes two files in turn: with named pipes, it waits for their readers."""
    import tensorflow as tf  # noqa: PLC0415  # only here

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        with tf.control_dependencies([tf.io.write_file(first, "started")]):
            initialiser = tf.io.write_file(second, "ending")
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], main_op=initialiser)
        builder.save()


def test_a_taken_port_is_an_error_before_anything_is_loaded(start: Start, model: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = start(f"--model_base_path={model}", "--dangerous_plaintext", f"--port={port}")
        assert server.ended() == 4
    assert f"error[port.taken]: Cannot listen on 127.0.0.1:{port}: another program listens there." in server.output
    assert "loaded" not in server.output


@both_transports
def test_two_servers_never_share_a_port(start: Start, model: Path, plain_port: int) -> None:
    server = start(f"--model_base_path={model}", "--dangerous_plaintext", f"--port={plain_port}")
    assert server.ended() == 4
    assert "error[port.taken]" in server.output


def test_a_missing_model(start: Start, tmp_path: Path) -> None:
    server = start(
        f"--model_base_path={tmp_path}/nothing", "--dangerous_plaintext", "--file_system_poll_wait_seconds=0"
    )
    assert server.ended() == 2
    assert "error[servable.base-path-missing]: The folder " in server.output


def test_a_model_that_does_not_load(start: Start, tmp_path: Path) -> None:
    (tmp_path / "m/1").mkdir(parents=True)
    server = start(f"--model_base_path={tmp_path}/m", "--dangerous_plaintext", "--max_num_load_retries=0")
    assert server.ended() == 2
    assert "error[servable.load-failed]: " in server.output
    assert "Traceback" not in server.output


def test_an_expired_certificate(start: Start, model: Path, tmp_path: Path) -> None:
    then = datetime.now(UTC) - timedelta(days=400)
    authority = Authority.create(AuthorityKind.SERVICE, names=[SERVICE], simulated=True, now=then)
    old = authority.issue_server([SERVICE], now=then)
    config = SslConfig(server_key=old.key_pem, server_cert=old.chain_pem)
    (tmp_path / "ssl.cfg").write_bytes(config.render().reveal())
    server = start(f"--model_base_path={model}", f"--ssl_config_file={tmp_path}/ssl.cfg")
    assert server.ended() == 3
    assert "error[certificate.expired]: the server's certificate in " in server.output


def remove_index(release: Path) -> None:
    (release / "models/m/1/variables/variables.index").unlink()


def add_file(release: Path) -> None:
    (release / "models/m/1/assets").mkdir(exist_ok=True)
    (release / "models/m/1/assets/more.txt").write_bytes(b"more")


def add_version(release: Path) -> None:
    shutil.copytree(release / "models/m/1", release / "models/m/2")


def flip_bit(release: Path) -> None:
    path = release / "models/m/1/variables/variables.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_tls(release: Path) -> None:
    path = release / "tls/ssl.cfg"
    path.write_bytes(path.read_bytes().replace(b"client_verify: true", b"client_verify: false"))


def empty_list(release: Path) -> None:
    (release / "files.json").write_text('{"version":1,"files":[]}')


def remove_list(release: Path) -> None:
    (release / "files.json").unlink()


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (remove_index, "servable.file-missing"),
        (add_file, "servable.file-unlisted"),
        (add_version, "servable.file-unlisted"),
        (flip_bit, "servable.file-changed"),
        (change_tls, "servable.file-changed"),
        (empty_list, "file-list.empty"),
        (remove_list, "file-list.missing"),
    ],
)
def test_a_release_that_was_tampered_with_is_not_served(
    start: Start, release: Path, tamper: Callable[[Path], None], code: str
) -> None:
    tamper(release)
    server = start(*release_flags(release))
    assert server.ended() == 3
    assert f"error[{code}]: " in server.output
    assert "serving" not in server.output


# --- how it stops -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_an_idle_server(start: Start, model: Path, number: signal.Signals) -> None:
    server = start(f"--model_base_path={model}", "--dangerous_plaintext")
    server.port()
    server.signal(number)
    assert server.ended() == 0
    assert f"{number.name}: draining" in server.output
    assert "stopped; every request was answered" in server.output


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """A request that TensorFlow runs and that ends only when `resume` is called."""

    second: Path
    answer: Any

    def resume(self) -> None:
        assert self.second.read_bytes() == b"ending"


def pause(channel: grpc.Channel, folder: Path) -> Paused:
    """Send a request whose model waits for a named pipe; return when it does."""
    first, second = folder / "first", folder / "second"
    os.mkfifo(first)
    os.mkfifo(second)
    request = predict_request("write", first=str(first), second=str(second))
    answer = prediction_stub(channel).Predict.future(request, timeout=LONG)
    assert first.read_bytes() == b"started"
    return Paused(second=second, answer=answer)


@both_transports
def test_a_drain_refuses_newcomers_and_lets_running_requests_finish(start: Start, model: Path, tmp_path: Path) -> None:
    server = start(f"--model_base_path={model}", "--dangerous_plaintext")
    with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
        assert listens(server)
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        statuses = watch(b"", timeout=LONG)
        assert next(statuses) == b"\x08\x01"
        paused = pause(channel, tmp_path)
        server.signal()
        assert list(statuses) == [b"\x08\x02"]
        server.wait_for("draining")
        while listens(server):  # until right after the health service said so
            pass
        assert not paused.answer.done()
        assert server.process.poll() is None
        paused.resume()
        assert list(paused.answer.result().outputs["answer"].string_val) == [b"done"]
    assert server.ended() == 0
    assert "stopped; every request was answered" in server.output


@both_transports
def test_a_drain_ends_with_the_grace_period(start: Start, model: Path, tmp_path: Path) -> None:
    server = start(f"--model_base_path={model}", "--dangerous_plaintext", "--drain_grace_seconds=0")
    with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
        paused = pause(channel, tmp_path)
        server.signal()
        assert server.ended() == 0
        assert paused.answer.exception(timeout=LONG) is not None
    assert "stopped while 1 requests were still running (grace period: 0 s)" in server.output


@both_transports
def test_a_second_signal_stops_at_once(start: Start, model: Path, tmp_path: Path) -> None:
    server = start(f"--model_base_path={model}", "--dangerous_plaintext")
    with grpc.insecure_channel(f"127.0.0.1:{server.port()}") as channel:
        paused = pause(channel, tmp_path)
        server.signal()
        server.wait_for("draining")
        server.signal(signal.SIGINT)
        assert server.ended() == 128 + signal.SIGINT
        assert paused.answer.exception(timeout=LONG) is not None
    assert "SIGINT again: stopping immediately" in server.output
