import struct
from pathlib import Path
from typing import Any

import pytest

from sealserve.serving.lifecycle.warmup import WarmupError, warm_up
from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.protos import PredictionLog
from sealserve.serving.servables import Servable, Servables
from sealserve.serving_interface import WARMUP_REQUESTS

pytestmark = pytest.mark.tensorflow


def predict_log(signature: str, value: Any, alias: str = "x") -> PredictionLog:
    import tensorflow as tf  # noqa: PLC0415  # the models' fixture has paid for it

    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return log


def write(folder: Path, *logs: PredictionLog | bytes) -> Path:
    """Write a warm-up file as users do: with TensorFlow's own writer."""
    import tensorflow as tf  # noqa: PLC0415  # the models' fixture has paid for it

    path = folder / WARMUP_REQUESTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log if isinstance(log, bytes) else log.SerializeToString())
    return path


class Counting:
    """A session that counts its runs."""

    def __init__(self, servable: Servable) -> None:
        self._inner = servable.session
        self.library = servable.session.library
        self.runs = 0

    def run(self, *arguments: Any, **options: Any) -> list[Any]:
        self.runs += 1
        return self._inner.run(*arguments, **options)

    def close(self) -> None:
        raise NotImplementedError


@pytest.fixture
def counting(servable: Servable) -> tuple[Servable, Counting]:
    session = Counting(servable)
    return (
        Servable(
            name="m",
            version=3,
            session=session,
            definitions=servable.definitions,
            signatures=servable.signatures,
        ),
        session,
    )


def test_each_request_is_run(counting: tuple[Servable, Counting], tmp_path: Path) -> None:
    loaded, session = counting
    warm_up(loaded, tmp_path, iterations=1)
    assert session.runs == 0
    write(tmp_path, predict_log("", [1.0]), predict_log("number", "1.5", "text"), PredictionLog())
    warm_up(loaded, tmp_path, iterations=3)
    assert session.runs == 6
    labels = f'{{model_path="{tmp_path}",status="OK"}}'
    assert f":tensorflow:serving:model_warmup_records_read{labels} 3\n" in loaded.metrics.page()
    assert f":tensorflow:serving:model_warmup_latency_count{labels} 1\n" in loaded.metrics.page()


def test_requests_for_examples_are_run(examples: Servables, tmp_path: Path) -> None:
    log = PredictionLog()
    log.regress_log.request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    other = PredictionLog()
    other.classify_log.request.model_spec.signature_name = "both"
    other.classify_log.request.input.CopyFrom(log.regress_log.request.input)
    third = PredictionLog()
    third.multi_inference_log.request.input.CopyFrom(log.regress_log.request.input)
    third.multi_inference_log.request.tasks.add(method_name="tensorflow/serving/regress").model_spec.name = "any"
    write(tmp_path, log, other, third)
    (entry,) = examples.states("examples").values()
    assert entry.servable is not None
    warm_up(entry.servable, tmp_path, iterations=1)


def test_a_request_that_fails_says_which_and_not_what(servable: Servable, tmp_path: Path) -> None:
    write(tmp_path, predict_log("number", "1", "text"), predict_log("number", "canary-771177", "text"))
    with pytest.raises(WarmupError, match=r"Warmup record 2 from .* failed: StringToNumberOp could not") as caught:
        warm_up(servable, tmp_path, iterations=1)
    assert (caught.value.code, caught.value.status) == ("servable.warmup-failed", Status.INVALID_ARGUMENT)
    assert "canary" not in str(caught.value)
    labels = f'{{model_path="{tmp_path}",status="INVALID_ARGUMENT"}}'
    assert f":tensorflow:serving:model_warmup_records_read{labels} 2\n" in servable.metrics.page()


def test_logs_that_cannot_be_run(servable: Servable, tmp_path: Path) -> None:
    log = PredictionLog()
    log.session_run_log.SetInParent()
    write(tmp_path, log)
    with pytest.raises(WarmupError, match="Unsupported log_type for warmup: 5") as caught:
        warm_up(servable, tmp_path, iterations=1)
    assert caught.value.status is Status.UNIMPLEMENTED
    write(tmp_path, b"\xff\xff")
    with pytest.raises(WarmupError, match="Failed to parse warmup record 1 from"):
        warm_up(servable, tmp_path, iterations=1)


def test_too_many(servable: Servable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.serving.lifecycle.warmup.MOST_RECORDS", 2)
    write(tmp_path, *[PredictionLog()] * 3)
    with pytest.raises(WarmupError, match=r"exceeds the maximum \(2\)"):
        warm_up(servable, tmp_path, iterations=1)


def test_a_file_that_is_none_of_records(servable: Servable, tmp_path: Path) -> None:
    path = write(tmp_path, predict_log("", [1.0]), predict_log("", [2.0]))
    content = path.read_bytes()
    first = 16 + struct.unpack("<Q", content[:8])[0]
    for damaged, offset in (
        (b"not a TFRecord file at all", 0),
        (b"short", 0),
        (content[:-3], first),
        (content[: first + 20], first),
        (struct.pack("<QI", 2**62, 0) + content[12:], 0),
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            WarmupError, match=f"corrupted record at {offset}. Please verify your warmup data"
        ) as caught:
            warm_up(servable, tmp_path, iterations=1)
        assert caught.value.status is Status.DATA_LOSS
