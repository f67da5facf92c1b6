"""A pipe where a file is expected is refused at once: nobody may write to it, and reading it would wait for ever."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealserve import deployment
from sealserve.broker.head_file import kept_head
from sealserve.broker.master_key import read_master_key
from sealserve.cli.tensor_input import read_inputs
from sealserve.client.bundle import ClientBundle
from sealserve.client.predict import Signature, TensorSpec
from sealserve.cluster.local.processes import Registry
from sealserve.enclave.inventory import measure, read_inventory
from sealserve.errors import SealserveError
from sealserve.model.frozen_graph import read_graph
from sealserve.model.saved_model import read_saved_model
from sealserve.model.server_config import read_batching_parameters
from sealserve.owner.keys import read_owner_key
from sealserve.pki.authority import Authority
from sealserve.pki.certificate import CertifiedKey
from sealserve.private_file import read_private
from sealserve.regular_file import read_tail
from sealserve.sealing.wrap_key import read_wrap_key
from sealserve.serving.command_line import config_files
from sealserve.serving.command_line.parameters_pb2 import BatchingParameters
from sealserve.serving.file_list import FileList
from sealserve.serving.wire.credentials import read_tls_settings
from sealserve.sgx.signing_key import load_signing_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIGNATURE = Signature(method="", inputs={"x": TensorSpec(dtype="float32", shape=(1,))}, outputs={})


READERS: dict[str, Callable[[Path], object]] = {
    "a passphrase or a token": lambda path: read_private(path, what="token", limit=10),
    "the master key": lambda path: read_master_key(path, passphrase=lambda: pytest.fail("asked")),
    "sealserve.toml": deployment.read,
    "an inventory": read_inventory,
    "a trusted file": lambda path: measure([str(path)]),
    "a frozen graph": read_graph,
    "a SavedModel": lambda path: read_saved_model(path.parent),
    "batching parameters": read_batching_parameters,
    "the owner's public key": read_owner_key,
    "a wrap key": read_wrap_key,
    "a client bundle": ClientBundle.read,
    "a certificate": lambda path: CertifiedKey.read(certificate=path, key=path),
    "an authority": lambda path: Authority.load(path.parent),
    "the signing key": load_signing_key,
    "an input of a request": lambda path: read_inputs([f"x=@{path}"], SIGNATURE),
    "parameters of the server": lambda path: config_files.read(path, BatchingParameters),
    "TLS settings": lambda path: read_tls_settings(path, None, now=NOW),
    "the file list": FileList.read,
    "the record of processes": lambda path: Registry(path).all(),
    "the kept head of the audit log": kept_head,
    "the newest lines of a log": lambda path: read_tail(path, limit=10),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_without_waiting(name: str, tmp_path: Path) -> None:
    for file in ("file", "saved_model.pb", "ca.pem", "ca.key"):
        os.mkfifo(tmp_path / file, 0o600)
    with pytest.raises(SealserveError, match="is not a regular file"):
        READERS[name](tmp_path / "file")
