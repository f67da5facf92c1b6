import hashlib
import json
import logging
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises
from tests.harness.optimized_models import convolution_model, in_this_process

from sealserve.attester.model_check import check_model
from sealserve.errors import InputError
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.optimization.acceptance import Thresholds
from sealserve.model.optimization.optimize import optimize
from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line.options import ServerOptions, parse
from sealserve.serving.file_list import FileList
from sealserve.serving.lifecycle import loading, versions
from sealserve.serving.lifecycle.loading import Loader, LoadFailedError, RefusedModelError
from sealserve.serving.lifecycle.warmup import WarmupError
from sealserve.serving.log import text_for_log
from sealserve.serving.metrics import Metrics
from sealserve.serving.runtime.libtensorflow import TensorFlowError
from sealserve.serving.runtime.protos import ConfigProto, PredictionLog
from sealserve.serving.runtime.session import Session
from sealserve.serving.servables import Servable
from sealserve.serving_interface import OPTIMIZATION_FILE, WARMUP_REQUESTS
from sealserve.terms import Precision

pytestmark = pytest.mark.tensorflow


def options(base_path: Path, *flags: str) -> ServerOptions:
    chosen = parse([f"--model_base_path={base_path}", "--model_name=m", "--dangerous_plaintext", *flags])
    assert isinstance(chosen, ServerOptions)
    return chosen


def load(chosen: ServerOptions, files: FileList | None, metrics: Metrics | None = None) -> Servable:
    found = versions.available(chosen.model_base_path, files)
    return Loader(options=chosen, files=files, metrics=metrics or Metrics()).load("m", max(found), found[max(found)])


@pytest.fixture
def copy(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "several", tmp_path / "several"))


def listing(folder: Path) -> FileList:
    rows = [
        {
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.rglob("*")
        if path.is_file()
    ]
    return FileList.parse(json.dumps({"version": 1, "files": rows}).encode(), folder=folder)


def test_what_was_loaded_is_logged(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        loaded = load(options(models / "several"), None)
    loaded.session.close()
    assert (loaded.name, loaded.version) == ("m", 3)
    assert "loaded m version 3 (TensorFlow 2." in caplog.text
    assert re.search(r"in \d+\.\d\d s: \d+\.\d MB, 5 signature\(s\)", caplog.text)
    for name in ("number", "pick", "serving_default", "two_inputs", "words"):
        assert name not in caplog.text, "the host of an enclave reads the log"


def test_loads_are_counted(copy: Path) -> None:
    metrics = Metrics()
    load(options(copy), None, metrics).session.close()
    (copy / "3/saved_model.pb").write_bytes(b"")
    (copy / "3/fingerprint.pb").unlink(missing_ok=True)
    with pytest.raises(LoadFailedError):
        load(options(copy), None, metrics)
    page = metrics.page()
    for status in ("success", "fail"):
        labels = f'{{model_path="{copy}/3",status="{status}"}}'
        assert f":tensorflow:cc:saved_model:load_attempt_count{labels} 1\n" in page
    latency = f':tensorflow:cc:saved_model:load_latency{{model_path="{copy}/3"}} '
    assert int(page.split(latency)[1].split()[0]) > 0


def test_a_check_refuses_a_model_before_tensorflow_loads_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "load", lambda *_, **__: pytest.fail("it was loaded"))
    asked: list[tuple[Path, object, object]] = []

    def check(
        folder: Path, *, tags: Collection[str], dangerous_operations: Collection[str], loaded: bytes | None = None
    ) -> None:
        assert loaded is None
        asked.append((folder, tags, dangerous_operations))
        raise InputError("WriteFile of the node secret_name")

    chosen = parse(
        [f"--model_base_path={copy}", "--model_name=m", "--dangerous_operations=Print,PyFunc"], attested=True
    )
    assert isinstance(chosen, ServerOptions)
    metrics = Metrics()
    with pytest.raises(RefusedModelError, match="secret_name") as caught:
        Loader(options=chosen, files=None, check_model=check, metrics=metrics).load("m", 3, copy / "3")
    assert caught.value.code == "servable.refused-model"
    assert "secret_name" not in text_for_log(caught.value), "the host of an enclave reads the log"
    assert asked == [(copy / "3", ("serve",), ("Print", "PyFunc"))]
    assert f'load_attempt_count{{model_path="{copy}/3",status="fail"}} 1' in metrics.page()


def test_a_file_that_the_host_replaces_after_the_check_is_not_served(copy: Path, models: Path) -> None:
    """The owner can encrypt two files for one path. The host presents the harmless file only to the check."""
    harmful = pb.SavedModel.FromString((copy / "3" / "saved_model.pb").read_bytes())
    for graph in harmful.meta_graphs:
        text = graph.graph_def.node.add(name="text", op="Const")
        text.attr["dtype"].type = pb.DT_STRING
        text.attr["value"].tensor.ParseFromString(b"\x08\x07\x12\x00\x42\x02/x")  # a scalar of the type string
        graph.graph_def.node.add(name="keep", op="WriteFile", input=["text", "text"])

    def replacing(folder: Path, *, loaded: bytes | None = None, **settings: Collection[str]) -> None:
        check_model(folder, loaded=loaded, **settings)
        (folder / "saved_model.pb").write_bytes(harmful.SerializeToString())

    chosen = parse([f"--model_base_path={copy}", "--model_name=m"], attested=True)
    assert isinstance(chosen, ServerOptions)
    loader = Loader(options=chosen, files=None, check_model=replacing)
    with pytest.raises(RefusedModelError, match="WriteFile"):
        loader.load("m", 3, copy / "3")
    shutil.copytree(models / "several" / "3", copy / "3", dirs_exist_ok=True)
    Loader(options=chosen, files=None, check_model=check_model).load("m", 3, copy / "3").session.close()


def test_signatures_that_cannot_be_called_are_kept_as_metadata(servable: Servable) -> None:
    assert set(servable.definitions) - set(servable.signatures) == {"__saved_model_init_op"}


def test_a_listed_model_loads(copy: Path, tmp_path: Path) -> None:
    load(options(copy), listing(tmp_path)).session.close()


def test_a_model_that_is_not_the_listed_one_does_not_load(copy: Path, tmp_path: Path) -> None:
    files = listing(tmp_path)
    (copy / "3/variables/variables.index").unlink()
    with raises(ServingCode.SERVABLE_FILE_MISSING, match=r"several/3/variables/variables.index is in the file list"):
        load(options(copy), files)


def test_a_hidden_newest_version_does_not_bring_back_an_older_one(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy / "3", copy / "4")
    files = listing(tmp_path)
    shutil.rmtree(copy / "4")
    with raises(ServingCode.SERVABLE_FILE_MISSING, match="several/4/"):
        load(options(copy), files)


def test_a_changed_model_does_not_reach_tensorflow(copy: Path, tmp_path: Path) -> None:
    files = listing(tmp_path)
    with (copy / "3/saved_model.pb").open("r+b") as stream:
        stream.write(b"\xff")
    with raises(
        ServingCode.SERVABLE_FILE_CHANGED,
        match=r"several/3/saved_model.pb does not match the file list: expected SHA-256",
    ):
        load(options(copy), files)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(LoadFailedError, match=r"/1 cannot be loaded: NOT_FOUND: Could not find SavedModel") as caught:
        load(options(tmp_path), None)
    assert (caught.value.code, caught.value.exit_status) == ("servable.load-failed", 2)


def test_a_sealed_models_fault_is_logged_without_tensorflows_message(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadFailedError) as open_:
        load(options(copy, "--saved_model_tags=nonsense"), None)
    assert text_for_log(open_.value) == open_.value.message
    with pytest.raises(
        LoadFailedError, match="nonsense"
    ) as sealed:  # every client that asks for the version's state can read it
        load(options(copy, "--saved_model_tags=nonsense"), listing(tmp_path))
    assert "nonsense" not in text_for_log(sealed.value)
    assert text_for_log(sealed.value).startswith(
        f"{copy}/3 cannot be loaded: NOT_FOUND. TensorFlow's message is omitted"
    )


def test_a_sealed_warm_up_requests_fault_is_logged_without_its_message(copy: Path, tmp_path: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415  # the models' fixture has paid for it

    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = "secret_signature"
    (copy / "3" / WARMUP_REQUESTS).parent.mkdir()
    with tf.io.TFRecordWriter(str(copy / "3" / WARMUP_REQUESTS)) as writer:
        writer.write(log.SerializeToString())
    with pytest.raises(WarmupError, match="secret_signature") as open_:
        load(options(copy), None)
    assert text_for_log(open_.value) == open_.value.message
    with pytest.raises(WarmupError, match="secret_signature") as sealed:
        load(options(copy), listing(tmp_path))
    assert text_for_log(sealed.value).endswith("tf_serving_warmup_requests failed: FAILED_PRECONDITION.")


def test_a_model_that_is_damaged(copy: Path) -> None:
    content = (copy / "3/saved_model.pb").read_bytes()
    (copy / "3/saved_model.pb").write_bytes(content[: len(content) // 2])
    with pytest.raises(LoadFailedError, match="cannot be loaded"):
        load(options(copy), None)


def test_tags_that_no_meta_graph_has(models: Path) -> None:
    with pytest.raises(LoadFailedError, match="nonsense"):
        load(options(models / "several", "--saved_model_tags=nonsense"), None)


def test_a_tensor_that_is_not_in_the_graph(servable: Servable) -> None:
    session = servable.session
    assert isinstance(session, Session)
    for name in ("nonsense:0", "serving_default_x:1", "serving_default_x:0:0", "", "serving_default_x:²"):
        with pytest.raises(TensorFlowError) as caught:
            session.endpoint(name)
        assert "was not found in the Graph" in caught.value.text


def test_an_optimized_model_is_only_merged_into_kernels(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other passes were made before. They would need several times the memory of the model's constants."""
    configs = []
    original = Session.load

    def noting(*arguments: Any, **settings: Any) -> Session:
        configs.append(settings["config"])
        return original(*arguments, **settings)

    monkeypatch.setattr(Session, "load", noting)
    load(options(copy), None).session.close()
    record = copy / "3" / OPTIMIZATION_FILE
    record.parent.mkdir(exist_ok=True)
    record.write_text("content that the server does not trust")
    load(options(copy), None).session.close()
    folder = copy / "3"
    chosen = ConfigProto()
    chosen.graph_options.rewrite_options.constant_folding = 2
    Loader(options=options(copy), files=None, session_config=chosen).load("m", 3, folder).session.close()
    plain, optimized, given = (config.graph_options.rewrite_options for config in configs)
    assert not plain.optimizers
    assert list(optimized.optimizers) == ["remap"]
    assert not given.optimizers, "the owner's settings count"


def test_freed_memory_is_returned_after_the_load(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    monkeypatch.setattr(loading, "return_freed_memory", lambda: times.append("load"))
    servable = load(options(models / "several"), None)
    assert times == ["load"]
    servable.session.close()


def test_an_attested_server_accepts_an_optimized_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    result = tmp_path / "m" / "1"
    report = optimize(
        convolution_model(tmp_path / "original"), result, precision=Precision.BFLOAT16, thresholds=Thresholds(top1=0)
    )
    chosen = options(tmp_path / "m")
    loaded = Loader(options=chosen, files=listing(tmp_path / "m"), check_model=check_model).load("m", 1, result)
    assert sorted(loaded.signatures) == ["features", "serving_default"]
    assert loaded.digest != report.original, "the digest in receipts is the digest of the served files"
    loaded.session.close()
