from pathlib import Path

import pytest
from google.protobuf import text_format
from tests.harness.errors import raises

from sealserve.model.codes import ModelCode
from sealserve.model.server_config import (
    ServedModel,
    model_server_config,
    read_batching_parameters,
    read_monitoring_config,
)
from sealserve.model.server_config_pb2 import ModelServerConfig


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.config"
    path.write_text(text)
    return path


def test_the_model_config_names_each_version_and_label() -> None:
    models = [
        ServedModel(name="b", base_path="/release/models/b", versions=[3, 1], labels={"stable": 1, "canary": 3}),
        ServedModel(name="a", base_path="/release/models/a", versions=[7]),
    ]
    text = model_server_config(models)
    first, second = text_format.Parse(text, ModelServerConfig()).model_config_list.config
    assert (first.name, first.base_path, first.model_platform) == ("b", "/release/models/b", "tensorflow")
    assert list(first.model_version_policy.specific.versions) == [1, 3]
    assert dict(first.version_labels) == {"canary": 3, "stable": 1}
    assert list(second.model_version_policy.specific.versions) == [7]
    assert model_server_config(models) == text


@pytest.mark.tensorflow
def test_tensorflow_serving_reads_the_same() -> None:
    from tensorflow_serving.config import model_server_config_pb2  # noqa: PLC0415  # it loads TensorFlow

    text = model_server_config([ServedModel(name="a", base_path="/m/a", versions=[2, 1], labels={"new": 2})])
    (config,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (config.name, config.base_path, config.model_platform) == ("a", "/m/a", "tensorflow")
    assert list(config.model_version_policy.specific.versions) == [1, 2]
    assert dict(config.version_labels) == {"new": 2}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "max_batch_size { value: 32 } allowed_batch_sizes: [8, 32] num_batch_threads { value: 2 }",
        "allowed_batch_sizes: [1, 1000]",
        """enable_large_batch_splitting { value: true } max_batch_size { value: 64 }
        max_execution_batch_size { value: 16 } allowed_batch_sizes: [4, 16] batch_timeout_micros { value: 0 }""",
    ],
)
def test_batching_parameters_are_kept_as_they_are(tmp_path: Path, text: str) -> None:
    assert read_batching_parameters(written(tmp_path, text)) == text.encode()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("allowed_batch_sizes: [8, 4]", r"expected ascending numbers from 1, got \[8, 4\]"),
        ("allowed_batch_sizes: [0, 1000]", "expected ascending numbers from 1"),
        ("max_batch_size { value: 32 } allowed_batch_sizes: [8]", r"must equal max_batch_size \(32\), got 8"),
        ("allowed_batch_sizes: [8]", r"must equal max_batch_size \(1000\), got 8"),
        ("num_batch_threads { value: 0 }", "invalid num_batch_threads: expected at least 1, got 0"),
        ("batch_timeout_micros { value: -1 }", "invalid batch_timeout_micros: expected 0 or more, got -1"),
    ],
)
def test_batching_parameters_that_the_server_would_refuse(tmp_path: Path, text: str, what: str) -> None:
    with raises(ModelCode.SERVER_CONFIG_VALUE, match=what) as caught:
        read_batching_parameters(written(tmp_path, text))
    assert caught.value.code == "server-config.value"


def test_a_monitoring_config(tmp_path: Path) -> None:
    text = 'prometheus_config { enable: true path: "/metrics" }'
    assert read_monitoring_config(written(tmp_path, text)) == text.encode()
    with raises(ModelCode.SERVER_CONFIG_VALUE, match="expected a path that begins with a slash"):
        read_monitoring_config(written(tmp_path, 'prometheus_config { path: "metrics" }'))


@pytest.mark.parametrize("text", ["max_batch_size: 32", "no_such_field: 1", "max_batch_size {", "\0", "{}"])
def test_what_is_no_such_file(tmp_path: Path, text: str) -> None:
    with raises(
        ModelCode.SERVER_CONFIG_SYNTAX, match=r"some\.config is not a valid BatchingParameters in text format"
    ) as caught:
        read_batching_parameters(written(tmp_path, text))
    assert caught.value.code == "server-config.syntax"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "some.config").write_bytes(b"\xff\xfe")
    with raises(ModelCode.SERVER_CONFIG_SYNTAX):
        read_monitoring_config(tmp_path / "some.config")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with raises(ModelCode.SERVER_CONFIG_MISSING, match=r"nowhere cannot be read: No such file") as caught:
        read_monitoring_config(tmp_path / "nowhere")
    assert caught.value.code == "server-config.missing"
