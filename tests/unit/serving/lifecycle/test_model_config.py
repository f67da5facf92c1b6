from pathlib import Path

import pytest
from google.protobuf import text_format
from tests.harness.errors import raises

from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line import config_files
from sealserve.serving.command_line.config_files import ConfigFileSyntaxError
from sealserve.serving.file_list import FileList
from sealserve.serving.lifecycle.model_config import ModelConfigError, check, single
from sealserve.serving.runtime.protos import ModelServerConfig


def config(*models: str) -> ModelServerConfig:
    text = "".join(f"config {{ {model} }}" for model in models)
    return text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig())


def test_a_list_of_models() -> None:
    models = check(
        config(
            'name: "a" base_path: "/a" model_platform: "tensorflow"',
            'name: "b" base_path: "/b" model_type: TENSORFLOW model_version_policy { all {} }'
            ' version_labels { key: "stable" value: 3 }',
        )
    )
    assert list(models) == ["a", "b"]
    assert (models["a"].base_path, models["a"].labels) == (Path("/a"), {})
    assert (models["b"].policy.WhichOneof("policy_choice"), models["b"].labels) == ("all", {"stable": 3})


def test_one_model_of_the_command_line_may_have_a_relative_path() -> None:
    (model,) = check(single("m", Path("here"))).values()
    assert (model.name, model.base_path) == ("m", Path.cwd() / "here")


def test_nothing() -> None:
    assert check(ModelServerConfig()) == {}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ('base_path: "/a" model_platform: "tensorflow"', "has no name"),
        (
            'name: "a" base_path: "a" model_platform: "tensorflow"',
            r"Expected model a to have an absolute path or URI; got base_path\(\)=a",
        ),
        ('name: "a" base_path: "/a"', "Illegal setting neither ModelServerConfig::model_type"),
        (
            'name: "a" base_path: "/a" model_platform: "tensorflow" model_type: TENSORFLOW',
            "Illegal setting both ModelServerConfig::model_type",
        ),
        ('name: "a" base_path: "/a" model_type: OTHER', "model_type choice 2 not supported"),
        ('name: "a" base_path: "/a" model_platform: "jax"', "Model a requests unsupported platform jax"),
        (
            'name: "a" base_path: "/a" model_platform: "tensorflow" logging_config {}',
            "never logs requests",
        ),
    ],
)
def test_a_model_that_cannot_be_served(model: str, message: str) -> None:
    with pytest.raises(ModelConfigError, match=message) as caught:
        check(config(model))
    assert caught.value.code == "model-config.invalid"


def test_a_name_that_comes_twice() -> None:
    model = 'name: "a" base_path: "/a" model_platform: "tensorflow"'
    with pytest.raises(ModelConfigError, match="Illegal to list model a multiple times in config list"):
        check(config(model, model))


def test_a_custom_configuration() -> None:
    custom = ModelServerConfig()
    custom.custom_model_config.type_url = "x"
    with pytest.raises(ModelConfigError, match="Only ModelConfigList is currently supported"):
        check(custom)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text('model_config_list { config { name: "a" } }')
    assert config_files.read(path, ModelServerConfig).model_config_list.config[0].name == "a"


@pytest.mark.parametrize("content", [b"model_config_list: improperly formatted file", b"\xff"])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "models.config"
    path.write_bytes(content)
    with pytest.raises(
        ConfigFileSyntaxError,
        match=r"Error parsing text-format tensorflow\.serving\.ModelServerConfig: .*models.config",
    ) as caught:
        config_files.read(path, ModelServerConfig)
    assert caught.value.code == "config-file.syntax"


def test_a_file_that_is_missing_or_not_listed(tmp_path: Path) -> None:
    with raises(ServingCode.CONFIG_FILE_MISSING, match="cannot be read: No such file") as caught:
        config_files.read(tmp_path / "nothing", ModelServerConfig)
    assert caught.value.code == "config-file.missing"
    (tmp_path / "models.config").write_text("")
    with raises(ServingCode.SERVABLE_FILE_UNLISTED):
        config_files.read(tmp_path / "models.config", ModelServerConfig, FileList(folder=tmp_path, rows={}))
