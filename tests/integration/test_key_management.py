"""The keystore in the transit engine of a real OpenBao server, through the verbs that an owner types."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.harness import openbao
from tests.harness.command_line import CommandLine
from tests.harness.errors import raises
from tests.harness.openbao import OpenBao
from tests.harness.workspaces import Site, make_site

from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyUnwrapError
from sealserve.broker.keystore import KeyId
from sealserve.broker.tables import KEYS
from sealserve.broker.transit import TransitKey
from sealserve.owner.owner import Owner
from sealserve.sealing.release import Release
from sealserve.secret import SecretBytes

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with openbao.running(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
def key(server: OpenBao) -> Iterator[TransitKey]:
    with TransitKey(
        server.url, mount="transit", key="sealserve", token_file=server.token_file, ca_file=server.ca_file
    ) as key:
        yield key


def test_what_is_encrypted_comes_back_for_the_same_context_only(key: TransitKey) -> None:
    secret = SecretBytes.random(16)
    wrapped = key.wrap(secret, context=b"one")
    assert key.wrapper_id == "transit:transit/sealserve"
    assert secret.reveal() not in wrapped
    assert key.unwrap(wrapped, context=b"one") == secret
    with pytest.raises(KeyUnwrapError, match="cannot be decrypted with the key 'sealserve'"):
        key.unwrap(wrapped, context=b"another")
    with pytest.raises(KeyUnwrapError):
        key.unwrap(wrapped[:-8] + b"AAAAAAA=", context=b"one")


def test_older_versions_of_the_key_go_on_decrypting(server: OpenBao, key: TransitKey) -> None:
    secret = SecretBytes.random(16)
    before = key.wrap(secret, context=b"")
    server.administer("transit/keys/sealserve/rotate", {})
    after = key.wrap(secret, context=b"")
    assert before.split(b":")[1] != after.split(b":")[1]
    assert key.unwrap(before, context=b"") == key.unwrap(after, context=b"") == secret


def test_another_key_and_another_token_are_refused(server: OpenBao, tmp_path: Path) -> None:
    with (
        TransitKey(
            server.url, mount="transit", key="other", token_file=server.token_file, ca_file=server.ca_file
        ) as other,
        raises(BrokerCode.KEYSTORE_TRANSIT_REFUSED, match=r"status 403: .*permission denied") as caught,
    ):
        other.wrap(SecretBytes(b"x"), context=b"")
    assert caught.value.code == "keystore.transit-refused"
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("s.wrong")
    with (
        TransitKey(
            server.url, mount="transit", key="sealserve", token_file=tmp_path / "token", ca_file=server.ca_file
        ) as stranger,
        raises(BrokerCode.KEYSTORE_TRANSIT_REFUSED),
    ):
        stranger.wrap(SecretBytes(b"x"), context=b"")


def stored(site: Site) -> list[bytes]:
    with Database.open(site.workspace.owner.database) as database, database.read() as connection:
        return list(connection.execute(select(KEYS.c.wrapped)).scalars())


def opens(site: Site, release: Release, cli: CommandLine) -> None:
    """Check that the key of a release is found: it decrypts the release's files."""
    site.build_enclave(release.folder)
    assert cli.bare("broker", "allow", release.folder, "-C", site.directory).status == 0
    with Owner.open(site.workspace).vault() as vault, vault.database.read() as connection:
        assert len(vault.keystore.load(connection, KeyId(release.index.key_id))) == 16


def test_an_owner_moves_the_keys_to_the_service_and_back(
    server: OpenBao, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = CommandLine(capsys, tmp_path / "site")
    site = make_site(tmp_path / "site")
    site.import_model()
    site.certify()
    first = site.build_release()
    site = make_site(site.directory, source=site.directory / "half-plus-two", keystore=server.settings)
    second = site.build_release()
    # The file encrypted the issuing key and the first release key.
    assert [row.startswith(b"vault:v") for row in stored(site)] == [False, False, True]
    moved = cli.json("broker", "rotate-master")
    assert (moved["keys"], moved["place"]) == (3, f"key 'sealserve' of {server.url}")
    assert [row.startswith(b"vault:v") for row in stored(site)] == [True, True, True]
    assert cli("backup", tmp_path / "backup").status == 0
    there = make_site(tmp_path / "restored", keystore=server.settings)
    shutil.rmtree(there.workspace.root)
    assert cli.bare("restore", tmp_path / "backup", "--directory", there.directory).status == 0
    assert stored(there) == stored(site)
    site.workspace.owner.master_key.unlink()
    for release in (first, second):
        opens(site, release, cli)
    settings = {**server.settings, "kind": "file"}
    site = make_site(site.directory, source=site.directory / "half-plus-two", keystore=settings)
    assert cli.json("broker", "rotate-master")["keys"] == 3
    site = make_site(site.directory, source=site.directory / "half-plus-two")
    for release in (first, second):
        opens(site, release, cli)
