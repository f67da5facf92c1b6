"""The configuration of the served models, and the rules for changing it.

Source: tensorflow/serving, ``config/model_server_config.proto``, ``model_servers/server.cc``
(``BuildSingleModelConfig``) and ``model_servers/server_core.cc`` (``ValidateModelConfigList``, ``GetPlatform``,
``ValidateNoModelsChangePlatforms``) for the rules and messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.errors import InputError
from sealserve.serving.base_path import read_base_path
from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.protos import ModelConfig, ModelServerConfig, VersionPolicy

_PLATFORM: Final = "tensorflow"
_TENSORFLOW_TYPE: Final = 1
"""``ModelType.TENSORFLOW``, the deprecated form of the platform "tensorflow"."""


class ModelConfigError(InputError):
    """A model's configuration is invalid or not supported."""

    code = "model-config.invalid"
    status = Status.INVALID_ARGUMENT


class ModelLabelError(ModelConfigError):
    """A label is assigned to a version that is not available."""

    code = "model-config.label"
    status = Status.FAILED_PRECONDITION


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model to serve.

    Args:
        name: Its name for clients.
        base_path: The folder with its version folders.
        policy: The rule for the wanted versions.
        labels: Versions by label.
    """

    name: str
    base_path: Path
    policy: VersionPolicy
    labels: Mapping[str, int]


def single(name: str, base_path: Path) -> ModelServerConfig:
    """Return the configuration that corresponds to ``--model_name`` and ``--model_base_path``.

    As in TensorFlow Serving, the command line accepts a relative path; a configuration file does not.
    """
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=str(base_path.absolute()), model_platform=_PLATFORM)
    return config


def check(config: ModelServerConfig) -> Mapping[str, ModelSource]:
    """Check a configuration; return its models by name, or an empty mapping if it is empty.

    Raises:
        ModelConfigError: The configuration is invalid or not supported.
        BasePathSchemeError: A base path is a URI that does not name a folder on this machine.
    """
    choice = config.WhichOneof("config")
    if choice is None:
        return {}
    if choice != "model_config_list":
        raise ModelConfigError(
            "ServerModelConfig type not supported. Only ModelConfigList is currently supported",
            hint="Write model_config_list { config { ... } }.",
        )
    models: dict[str, ModelSource] = {}
    for model in config.model_config_list.config:
        if not model.name:
            raise ModelConfigError("A model in the config list has no name.")
        if model.name in models:
            raise ModelConfigError(f"Illegal to list model {model.name} multiple times in config list")
        models[model.name] = _check_model(model)
    return models


def _check_model(model: ModelConfig) -> ModelSource:
    base_path = read_base_path(model.base_path)
    if not base_path.is_absolute():
        raise ModelConfigError(
            f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
        )
    platform = model.model_platform
    if model.model_type:
        if platform:
            raise ModelConfigError(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and"
                f" ModelServerConfig::model_platform, model name is {model.name}"
            )
        if model.model_type != _TENSORFLOW_TYPE:
            raise ModelConfigError(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
        platform = _PLATFORM
    if not platform:
        raise ModelConfigError(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor"
            f" ModelServerConfig::model_platform, model name is {model.name}",
            hint='Write model_platform: "tensorflow".',
        )
    if platform != _PLATFORM:
        raise ModelConfigError(f"Model {model.name} requests unsupported platform {platform}")
    if model.HasField("logging_config"):
        raise ModelConfigError(
            f"The logging_config of the model {model.name} is not supported: this server never logs requests.",
            hint="Remove logging_config.",
        )
    policy = VersionPolicy()
    policy.CopyFrom(model.model_version_policy)
    return ModelSource(name=model.name, base_path=base_path, policy=policy, labels=dict(model.version_labels))
