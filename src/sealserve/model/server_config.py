"""The configuration files of TensorFlow Serving that a release carries, in protobuf text format.

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
    """A model and the versions of it that are served.

    Args:
        name: What clients call it.
        base_path: The folder with its version folders, where the server sees it.
        versions: All that are served.
        labels: Names of versions.
    """

    name: str
    base_path: str
    versions: Sequence[int]
    labels: Mapping[str, int] = field(default_factory=dict)


def model_server_config(models: Sequence[ServedModel]) -> bytes:
    """Return the ``ModelServerConfig`` that serves exactly these versions: a host that hides one stops the server."""
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
    """Return the content of a file with ``BatchingParameters``, checked.

    Raises:
        InputError: `server-config.missing`: It cannot be read.
        InputError: `server-config.syntax`: It is none.
        InputError: `server-config.value`: The server would refuse its values.
    """
    content, parameters = _read(path, BatchingParameters())
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads", "max_execution_batch_size"):
        if parameters.HasField(name) and getattr(parameters, name).value < 1:
            raise ModelCode.SERVER_CONFIG_VALUE.error(
                f"{path}: {name} is {getattr(parameters, name).value}; it begins at 1."
            )
    if parameters.HasField("batch_timeout_micros") and parameters.batch_timeout_micros.value < 0:
        raise ModelCode.SERVER_CONFIG_VALUE.error(f"{path}: batch_timeout_micros is negative.")
    sizes = list(parameters.allowed_batch_sizes)
    if sizes != sorted(set(sizes)) or any(size < 1 for size in sizes):
        raise ModelCode.SERVER_CONFIG_VALUE.error(
            f"{path}: allowed_batch_sizes must ascend from 1 on; they are {sizes}."
        )
    limit = "max_execution_batch_size" if parameters.enable_large_batch_splitting.value else "max_batch_size"
    largest = getattr(parameters, limit).value if parameters.HasField(limit) else _DEFAULT_MAX_BATCH_SIZE
    if sizes and sizes[-1] != largest:
        raise ModelCode.SERVER_CONFIG_VALUE.error(
            f"{path}: the last of allowed_batch_sizes is {sizes[-1]}; it must be {limit}, {largest}."
        )
    return content


def read_monitoring_config(path: Path) -> bytes:
    """Return the content of a file with ``MonitoringConfig``, checked.

    Raises:
        InputError: `server-config.missing`: It cannot be read.
        InputError: `server-config.syntax`: It is none.
        InputError: `server-config.value`: The server would refuse its values.
    """
    content, monitoring = _read(path, MonitoringConfig())
    where = monitoring.prometheus_config.path
    if where and not where.startswith("/"):
        raise ModelCode.SERVER_CONFIG_VALUE.error(
            f"{path}: prometheus_config.path is {where!r}; it must begin with a slash."
        )
    return content


def _read(path: Path, message: _Parsed) -> tuple[bytes, _Parsed]:
    try:
        content = read_regular(path)
    except InputFileError as error:
        raise ModelCode.SERVER_CONFIG_MISSING.error(
            f"{path} cannot be read: {error.reason}.", hint="sealserve.toml names it, relative to itself."
        ) from error
    try:
        return content, text_format.Parse(content, message)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        kind = message.DESCRIPTOR.name
        raise ModelCode.SERVER_CONFIG_SYNTAX.error(f"{path} is no {kind} in protobuf text format: {error}.") from error
