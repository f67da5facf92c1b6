"""TensorFlow Serving's configuration files in a release, in protobuf text format.

Source: tensorflow/serving 9d981c5c, ``config/model_server_config.proto``, ``config/monitoring_config.proto`` and
``servables/tensorflow/session_bundle_config.proto`` (fields), ``batching/batching_session.cc`` (batch sizes).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from sealserve.model.codes import ModelCode
from sealserve.model.server_config_pb2 import (
    BatchingParameters,
    ModelConfig,
    ModelConfigList,
    ModelServerConfig,
    MonitoringConfig,
    ServableVersionPolicy,
)
from sealserve.regular_file import InputFileError, read_regular

_Parsed = TypeVar("_Parsed", bound=Message)
_PLATFORM: Final = "tensorflow"
_DEFAULT_MAX_BATCH_SIZE: Final = 1000  # SharedBatchScheduler::QueueOptions, tensorflow/core/kernels/batching_util


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model and its served versions.

    Args:
        name: Its name for clients.
        base_path: The path of the folder with its version folders, from the server's point of view.
        versions: All served versions.
        labels: Labels of versions: each label's version number.
    """

    name: str
    base_path: str
    versions: Sequence[int]
    labels: Mapping[str, int] = field(default_factory=dict)


def model_server_config(models: Sequence[ServedModel]) -> bytes:
    """Return the ``ModelServerConfig`` for exactly these versions. If the host hides a version, the server stops."""
    configs = [
        ModelConfig(
            name=model.name,
            base_path=model.base_path,
            model_platform=_PLATFORM,
            model_version_policy=ServableVersionPolicy(
                specific=ServableVersionPolicy.Specific(versions=sorted(model.versions))
            ),
            version_labels=model.labels,
        )
        for model in models
    ]
    return text_format.MessageToString(
        ModelServerConfig(model_config_list=ModelConfigList(config=configs)), as_utf8=True
    ).encode()


def read_batching_parameters(path: Path) -> bytes:
    """Read and check a file with ``BatchingParameters``, and return its content.

    Raises:
        InputError: `server-config.missing`: The file cannot be read.
        InputError: `server-config.syntax`: The file is not valid protobuf text, or has an unknown field.
        InputError: `server-config.value`: The server would reject a value.
    """
    content, parameters = _read(path, BatchingParameters())
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads", "max_execution_batch_size"):
        if parameters.HasField(name) and getattr(parameters, name).value < 1:
            raise ModelCode.SERVER_CONFIG_VALUE.error(
                f"{path} has an invalid {name}: expected at least 1, got {getattr(parameters, name).value}."
            )
    if parameters.HasField("batch_timeout_micros") and parameters.batch_timeout_micros.value < 0:
        raise ModelCode.SERVER_CONFIG_VALUE.error(
            f"{path} has an invalid batch_timeout_micros: expected 0 or more, got "
            f"{parameters.batch_timeout_micros.value}."
        )
    sizes = list(parameters.allowed_batch_sizes)
    if sizes != sorted(set(sizes)) or any(size < 1 for size in sizes):
        raise ModelCode.SERVER_CONFIG_VALUE.error(
            f"{path} has invalid allowed_batch_sizes: expected ascending numbers from 1, got {sizes}."
        )
    limit = "max_execution_batch_size" if parameters.enable_large_batch_splitting.value else "max_batch_size"
    largest = getattr(parameters, limit).value if parameters.HasField(limit) else _DEFAULT_MAX_BATCH_SIZE
    if sizes and sizes[-1] != largest:
        raise ModelCode.SERVER_CONFIG_VALUE.error(
            f"{path} has invalid allowed_batch_sizes: the last must equal {limit} ({largest}), got {sizes[-1]}."
        )
    return content


def read_monitoring_config(path: Path) -> bytes:
    """Read and check a file with ``MonitoringConfig``, and return its content.

    Raises:
        InputError: `server-config.missing`: The file cannot be read.
        InputError: `server-config.syntax`: The file is not valid protobuf text, or has an unknown field.
        InputError: `server-config.value`: The server would reject a value.
    """
    content, monitoring = _read(path, MonitoringConfig())
    where = monitoring.prometheus_config.path
    if where and not where.startswith("/"):
        raise ModelCode.SERVER_CONFIG_VALUE.error(
            f"{path} has an invalid prometheus_config.path: expected a path that begins with a slash, got {where!r}."
        )
    return content


def _read(path: Path, message: _Parsed) -> tuple[bytes, _Parsed]:
    try:
        content = read_regular(path)
    except InputFileError as error:
        raise ModelCode.SERVER_CONFIG_MISSING.error(
            f"{path} cannot be read: {error.reason}.",
            hint="Check the path in sealserve.toml, which is relative to the folder of sealserve.toml.",
        ) from error
    try:
        return content, text_format.Parse(content, message)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        kind = message.DESCRIPTOR.name
        raise ModelCode.SERVER_CONFIG_SYNTAX.error(
            f"{path} is not a valid {kind} in text format: {str(error).rstrip('.')}."
        ) from error
