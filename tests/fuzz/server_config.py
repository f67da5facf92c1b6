"""Configuration files of the model server, valid text and other bytes: each is parsed, or rejected with a code."""

import os
from collections.abc import Iterator
from pathlib import Path

from sealserve.errors import InputError
from sealserve.serving.command_line import config_files
from sealserve.serving.command_line.batching_options import BatchingOptions
from sealserve.serving.command_line.parameters_pb2 import BatchingParameters, MonitoringConfig
from sealserve.serving.lifecycle import model_config
from sealserve.serving.runtime.protos import ModelServerConfig


def seeds() -> Iterator[bytes]:
    """Yield a file of each kind."""
    yield (
        b'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow"'
        b' model_version_policy { specific { versions: 1 } } version_labels { key: "l" value: 1 } } }'
    )
    yield b'custom_model_config { type_url: "x" } '
    yield b"max_batch_size { value: 8 } allowed_batch_sizes: [4, 8] batch_timeout_micros { value: -1 }"
    yield b'prometheus_config { enable: true path: "/m" }'


def fuzz(data: bytes) -> None:
    """Parse ``data`` as each kind of file."""
    memory = os.memfd_create("config")
    try:
        os.pwrite(memory, data, 0)
        path = Path(f"/proc/self/fd/{memory}")
        for kind in (ModelServerConfig, BatchingParameters, MonitoringConfig):
            try:
                message = config_files.read(path, kind)
                if isinstance(message, ModelServerConfig):
                    model_config.check(message)
                if isinstance(message, BatchingParameters):
                    BatchingOptions.of(message)
            except InputError as error:
                assert error.code.partition(".")[0] in {"config-file", "model-config", "batching"}  # noqa: PT017  # fuzzing
    finally:
        os.close(memory)
