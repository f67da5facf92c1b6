from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealserve.sealing.release import Release, ReleaseContents, Servable, build_release
from sealserve.secret import SecretBytes

KEY_NAME = "00112233445566778899aabbccddeeff"


@pytest.fixture
def key() -> SecretBytes:
    return SecretBytes(bytes(range(16)))


@pytest.fixture
def signer() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a folder with the structure of a SavedModel."""
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph" * 2000)
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(bytes(range(256)) * 40)
    return folder


@pytest.fixture
def contents(model: Path) -> ReleaseContents:
    return ReleaseContents(
        name="resnet50",
        servables=[Servable(name="resnet50", version=1, folder=model)],
        files={"tls/ssl.cfg": SecretBytes(b"server_key: ..."), "config/models.config": b"model_config_list {}"},
        simulated=True,
        created=datetime(2026, 11, 23, 18, 22, 5, 999, tzinfo=UTC),
    )


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    folder = tmp_path / "releases"
    folder.mkdir()
    return folder


@pytest.fixture
def build(releases: Path, key: SecretBytes, signer: Ed25519PrivateKey) -> Callable[..., Release]:
    """Return `build_release` with all arguments except the contents."""
    return partial(build_release, parent=releases, key=key, key_id=KEY_NAME, signer=signer)


@pytest.fixture
def release(contents: ReleaseContents, build: Callable[..., Release]) -> Release:
    return build(contents)
