import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness import keys
from tests.harness.model_server_command import COMMAND, PROGRAM

from sealserve.enclave.index import BuiltEnclave
from sealserve.enclave.inventory import measure
from sealserve.enclave.manifest import EncryptedMount
from sealserve.enclave.signing import build_enclave
from sealserve.enclave.spec import EnclaveSpec
from sealserve.sealing.release import Release, ReleaseContents, Servable, build_release
from sealserve.secret import SecretBytes

Build = Callable[..., BuiltEnclave]
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def python() -> Python:
    """Return a function that runs Python code in a separate process, which may move into a namespace."""

    def run(code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=timeout
        )

    return run


@pytest.fixture(scope="session")
def signing_key() -> rsa.RSAPrivateKey:
    return keys.signing_key()


@pytest.fixture(scope="session")
def index_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def broker_ca() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string("CN=broker CA")
    now = datetime(2026, 11, 23, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def key() -> SecretBytes:
    return SecretBytes(bytes(range(16)))


@pytest.fixture
def release(tmp_path: Path, key: SecretBytes, index_key: Ed25519PrivateKey) -> Release:
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"graph" * 2000)
    contents = ReleaseContents(
        name="tiny",
        servables=[Servable(name="tiny", version=1, folder=model)],
        files={"tls/ssl.cfg": b"private"},
        simulated=True,
        created=datetime(2026, 11, 23, tzinfo=UTC),
    )
    (tmp_path / "releases").mkdir()
    return build_release(contents, tmp_path / "releases", key=key, key_id="0" * 32, signer=index_key)


@pytest.fixture
def make_spec(release: Release) -> Callable[..., EnclaveSpec]:
    def make(**changes: Any) -> EnclaveSpec:
        values: dict[str, Any] = {
            "name": "replica-0",
            "release_id": release.id,
            "argv": COMMAND,
            "broker": ("127.0.0.1", 4433),
            "mounts": (
                EncryptedMount(path="/release/files.json", uri="file:files.json"),
                EncryptedMount(path="/release/tls", uri="file:tls/"),
                EncryptedMount(path="/release/models", uri="file:models/"),
            ),
            "trusted_files": measure([PROGRAM]),
            "isv_prod_id": 7,
            "isv_svn": 3,
            "simulated": True,
        }
        return EnclaveSpec(**{**values, **changes})

    return make


@pytest.fixture
def build(release: Release, signing_key: rsa.RSAPrivateKey, index_key: Ed25519PrivateKey, broker_ca: bytes) -> Build:
    """Return `build_enclave` with all arguments except the specification."""
    return partial(
        build_enclave,
        release.folder,
        broker_ca=broker_ca,
        signing_key=signing_key,
        index_signer=index_key,
        signed_on=date(2026, 11, 23),
    )
