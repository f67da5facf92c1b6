import hashlib
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from tests.harness.errors import raises

from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.codes import PkiCode
from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.codes import ServingCode
from sealserve.serving.file_list import FileList
from sealserve.serving.wire.credentials import FollowedSettings, read_tls_settings, server_credentials

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SERVICE = "grpc.tf-serving.service.com"


@pytest.fixture(scope="module")
def settings() -> SslConfig:
    service = Authority.create(AuthorityKind.SERVICE, names=[SERVICE], simulated=True, now=NOW)
    users = Authority.create(AuthorityKind.USERS, names=["client.tf-serving.service.com"], simulated=True, now=NOW)
    leaf = service.issue_server([SERVICE], now=NOW)
    return SslConfig(
        server_key=leaf.key_pem, server_cert=leaf.chain_pem, custom_ca=users.certificate_pem, client_verify=True
    )


@pytest.fixture
def path(tmp_path: Path, settings: SslConfig) -> Path:
    (tmp_path / "ssl.cfg").write_bytes(settings.render().reveal())
    return tmp_path / "ssl.cfg"


def listing(path: Path) -> FileList:
    content = path.read_bytes()
    row = {"path": path.name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return FileList.parse(json.dumps({"version": 1, "files": [row]}).encode(), folder=path.parent)


def test_the_settings_become_credentials(path: Path, settings: SslConfig) -> None:
    read = read_tls_settings(path, None, now=NOW)
    assert read == settings
    assert isinstance(server_credentials(read), grpc.ServerCredentials)


def test_a_listed_file_must_be_the_listed_one(path: Path, settings: SslConfig) -> None:
    files = listing(path)
    assert read_tls_settings(path, files, now=NOW) == settings
    path.write_bytes(path.read_bytes().replace(b"client_verify: true", b"client_verify: fals"))
    with raises(ServingCode.SERVABLE_FILE_CHANGED, match=r"ssl.cfg does not match the file list: expected SHA-256"):
        read_tls_settings(path, files, now=NOW)


def test_a_file_beside_the_list_must_be_listed(path: Path, tmp_path: Path) -> None:
    files = listing(path)
    other = tmp_path / "other.cfg"
    other.write_bytes(path.read_bytes())
    with raises(ServingCode.SERVABLE_FILE_UNLISTED, match=r"other.cfg is not in the file list"):
        read_tls_settings(other, files, now=NOW)


def test_a_file_elsewhere_is_not_the_lists_business(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "ssl.cfg"
    elsewhere.write_bytes(path.read_bytes())
    assert read_tls_settings(elsewhere, listing(path), now=NOW).client_verify


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with raises(ServingCode.SERVER_TLS_SETTINGS_MISSING, match=r"ssl.cfg cannot be read: No such file") as caught:
        read_tls_settings(tmp_path / "ssl.cfg", None, now=NOW)
    assert (caught.value.code, caught.value.exit_status) == ("server.tls-settings-missing", 2)


def test_an_expired_certificate(path: Path) -> None:
    with raises(PkiCode.CERTIFICATE_EXPIRED, match=r"the server's certificate in .* expired"):
        read_tls_settings(path, None, now=NOW + timedelta(days=5000))


def test_an_authority_of_users_that_expired_is_a_warning(
    tmp_path: Path, settings: SslConfig, caplog: pytest.LogCaptureFixture
) -> None:
    old = Authority.create(
        AuthorityKind.USERS, names=["client.example.com"], simulated=True, now=NOW - timedelta(days=9000)
    )
    mixed = SslConfig(
        server_key=settings.server_key,
        server_cert=settings.server_cert,
        custom_ca=(settings.custom_ca or b"") + old.certificate_pem,
        client_verify=True,
    )
    (tmp_path / "ssl.cfg").write_bytes(mixed.render().reveal())
    with caplog.at_level(logging.WARNING):
        assert read_tls_settings(tmp_path / "ssl.cfg", None, now=NOW).custom_ca == mixed.custom_ca
    assert "an authority for users' certificates is not valid: custom_ca" in caplog.text


def replace(path: Path, content: bytes) -> None:
    """Replace ``path`` by a new file, as a renewal does."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def test_settings_are_read_again_only_when_their_file_is_another(path: Path) -> None:
    now = datetime.now(UTC)
    service = Authority.create(AuthorityKind.SERVICE, names=[SERVICE], simulated=True, now=now)
    leaf = service.issue_server([SERVICE], now=now)
    first = read_tls_settings(path, None, now=NOW)
    followed = FollowedSettings(path, first)
    assert isinstance(followed.credentials(), grpc.ServerCredentials)
    assert followed.newer() is None
    renewed = SslConfig(
        server_key=leaf.key_pem, server_cert=leaf.chain_pem, custom_ca=first.custom_ca, client_verify=True
    )
    replace(path, renewed.render().reveal())
    assert isinstance(followed.newer(), grpc.ServerCertificateConfiguration)
    assert followed.newer() is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"half a fi", "is no SSLConfig"),
        (None, "client_verify cannot change while the server runs"),
    ],
)
def test_settings_that_cannot_be_used_leave_the_former_ones(
    path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None, message: str
) -> None:
    now = datetime.now(UTC)
    service = Authority.create(AuthorityKind.SERVICE, names=[SERVICE], simulated=True, now=now)
    leaf = service.issue_server([SERVICE], now=now)
    one_way = SslConfig(server_key=leaf.key_pem, server_cert=leaf.chain_pem)
    followed = FollowedSettings(path, read_tls_settings(path, None, now=NOW))
    replace(path, one_way.render().reveal() if content is None else content)
    assert followed.newer() is None
    (line,) = caplog.messages
    assert line.startswith("the previous TLS settings stay in force: ")
    assert message in line


def test_settings_that_disappear_leave_the_former_ones(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    followed = FollowedSettings(path, read_tls_settings(path, None, now=NOW))
    path.unlink()
    assert followed.newer() is None
    assert followed.newer() is None
    assert len(caplog.messages) == 1
