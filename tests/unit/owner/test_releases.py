import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from sqlalchemy import select
from tests.harness.errors import raises
from tests.harness.tiny_model import WEIGHTS, saved_model
from tests.harness.workspaces import Site, make_site

from sealserve.broker import admin
from sealserve.broker.keystore import KeyId
from sealserve.broker.tables import KEYS
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.index import EnclaveIndexMissingError
from sealserve.errors import VerificationError
from sealserve.model.codes import ModelCode
from sealserve.model.server_config_pb2 import ModelServerConfig
from sealserve.owner import issuing, releases
from sealserve.owner.codes import OwnerCode
from sealserve.owner.expiry import service_certificate_end
from sealserve.owner.keys import read_owner_key
from sealserve.owner.owner import Owner
from sealserve.owner.releases import FaultyRelease, ListedRelease
from sealserve.owner.server_config import server_config_files
from sealserve.pki.authority import AuthorityMissingError
from sealserve.pki.client_settings import parse_client_settings
from sealserve.sealing import archive
from sealserve.sealing import release as release_module
from sealserve.sealing.codec import unseal_bytes
from sealserve.sealing.codes import SealingCode


def fake_release(parent: Path, name: str, *, index: str = "{}", age: int = 0) -> Path:
    """Make a folder that looks like a release from afar."""
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "release.json").write_text(index)
    os.utime(folder / "release.json", (1_000_000 - age, 1_000_000 - age))
    return folder


def test_a_release_is_sealed_under_a_key_of_its_own(ready: Site) -> None:
    done: list[int] = []
    release = releases.build(ready.workspace, ready.deployment, now=ready.now, progress=done.append)

    assert release.folder.parent == ready.workspace.owner.releases
    assert release.folder.name == f"half-plus-two-{release.id[:12]}"
    assert sum(done) > len(WEIGHTS)
    assert releases.verify(release.folder, Owner.open(ready.workspace).public_key()).id == release.id
    assert release.index.simulated
    assert sorted(file.path for file in release.index.files) == [
        "config/models.config", "config/session.config", "files.json", "models/half-plus-two/1/saved_model.pb",
        "tls/clients.cfg",
    ]  # fmt: skip
    with Owner.open(ready.workspace).vault() as vault, vault.database.read() as connection:
        key = vault.keystore.load(connection, KeyId(release.index.key_id))
    path = "models/half-plus-two/1/saved_model.pb"
    sealed, plain = release.folder / path, ready.workspace.owner.models / "half-plus-two/1/saved_model.pb"
    assert unseal_bytes(sealed, key=key, embedded_path=path).reveal() == plain.read_bytes()
    assert WEIGHTS[:16] not in sealed.read_bytes()
    path = "tls/clients.cfg"
    settings = parse_client_settings(unseal_bytes(release.folder / path, key=key, embedded_path=path).reveal())
    assert settings.client_verify


@pytest.mark.parametrize("tls", ["two-way", "one-way"])
def test_a_release_for_attested_serving_contains_no_tls_key(tmp_path: Path, tls: str) -> None:
    site = make_site(tmp_path, service={"tls": tls})
    site.import_model()
    site.certify()

    release = site.build_release()

    sealed = [file.path for file in release.index.files if file.path.startswith("tls/")]
    assert sealed == (["tls/clients.cfg"] if tls == "two-way" else [])
    if tls == "two-way":
        with Owner.open(site.workspace).vault() as vault, vault.database.read() as connection:
            key = vault.keystore.load(connection, KeyId(release.index.key_id))
        path = "tls/clients.cfg"
        content = unseal_bytes(release.folder / path, key=key, embedded_path=path).reveal()
        assert b"PRIVATE KEY" not in content
        assert parse_client_settings(content).client_verify
    assert service_certificate_end(release.folder, {}) is None
    # The enclave's program attests, and its command line names no other TLS settings.
    site.build_enclave(release.folder)
    manifest = (release.folder / "enclave/replica-0.manifest.sgx").read_text()
    assert '"sealserve.attester"' in manifest
    assert "LD_PRELOAD" not in manifest
    assert ("tls/clients.cfg" in manifest) == (tls == "two-way")
    assert "ssl.cfg" not in manifest


def test_no_two_releases_share_a_key(ready: Site) -> None:
    first, second = ready.build_release(), ready.build_release()
    assert first.id != second.id
    assert first.index.key_id != second.index.key_id


def keys(site: Site) -> int:
    with Owner.open(site.workspace).vault() as vault:
        return admin.status(vault.database).keys


def test_a_build_that_fails_leaves_no_key(ready: Site) -> None:
    ready.build_release()

    def interrupt(_size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        releases.build(ready.workspace, ready.deployment, now=ready.now, progress=interrupt)
    assert len(list(ready.workspace.owner.releases.iterdir())) == 1
    assert keys(ready) == 1


def test_a_build_that_is_interrupted_after_its_end_keeps_its_key(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = release_module.build_release

    def build_and_interrupt(*arguments: Any, **settings: Any) -> None:
        whole(*arguments, **settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(release_module, "build_release", build_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        ready.build_release()
    assert releases.any_in(ready.workspace.owner.releases)
    assert keys(ready) == 1


def test_a_release_for_sgx_is_not_marked_as_simulated(tmp_path: Path) -> None:
    site = make_site(tmp_path, platform="sgx")
    site.import_model()
    site.certify()
    release = site.build_release()
    assert not release.index.simulated
    (row,) = releases.listed(site.workspace, site.workspace.owner.releases)
    assert isinstance(row, ListedRelease)
    assert not row.simulated


def test_nothing_is_sealed_without_a_model(site: Site) -> None:
    site.certify()
    with raises(OwnerCode.MODEL_NOT_IMPORTED):
        site.build_release()
    assert not releases.any_in(site.workspace.owner.releases)


@pytest.mark.parametrize("owner_key", [False, True])
@pytest.mark.parametrize("tls", ["two-way", "one-way"])
def test_nothing_is_sealed_without_authorities(tmp_path: Path, tls: str, owner_key: bool) -> None:
    site = make_site(tmp_path, service={"tls": tls}, server={"dangerous_owner_tls_key": owner_key})
    site.import_model()
    with pytest.raises(AuthorityMissingError):
        site.build_release()
    assert not releases.any_in(site.workspace.owner.releases)
    with Owner.open(site.workspace).database() as database, database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM keys").scalar() == 0


def test_releases_are_listed_oldest_first(ready: Site) -> None:
    made = [ready.build_release() for _ in range(3)]
    for age, release in enumerate(made):
        os.utime(release.folder / "release.json", (1_000_000 - age, 1_000_000 - age))
    (ready.workspace.owner.releases / "a-folder").mkdir()
    fake_release(ready.workspace.owner.releases, ".half-made")
    rows = [
        row
        for row in releases.listed(ready.workspace, ready.workspace.owner.releases)
        if isinstance(row, ListedRelease)
    ]
    assert [row.id for row in rows] == [release.id for release in reversed(made)]
    assert rows[0].servables == ("half-plus-two:1",)
    assert rows[0].simulated
    assert rows[0].size == sum(file.size for file in made[2].index.files)
    assert releases.newest(ready.workspace.owner.releases) == made[0].folder
    assert list(releases.listed(ready.workspace, ready.directory / "nowhere")) == []


def test_an_index_that_the_owner_did_not_sign_is_listed_with_its_fault(ready: Site) -> None:
    release = ready.build_release()
    path = release.folder / "release.json"
    path.write_bytes(path.read_bytes().replace(b'"simulated":true', b'"simulated":false'))
    (row,) = releases.listed(ready.workspace, ready.workspace.owner.releases)
    assert isinstance(row, FaultyRelease)
    assert row.folder == release.folder
    assert isinstance(row.fault, VerificationError)
    assert row.fault.code == SealingCode.INDEX_BAD_SIGNATURE
    assert row.fault.code == "index.bad-signature"


def test_without_the_owners_key_nothing_verifies(ready: Site) -> None:
    ready.build_release()
    ready.workspace.host.owner_key.unlink()
    ready.workspace.owner.index_signing_key.unlink()
    with raises(OwnerCode.OWNER_KEY_UNREADABLE, match=r"owner\.pub cannot be read"):
        list(releases.listed(ready.workspace, ready.workspace.owner.releases))


def test_a_release_is_found_by_folder_name_or_id(tmp_path: Path) -> None:
    first = fake_release(tmp_path, "first-and-renamed", index="1")  # 6b86b273ff34...
    newest = fake_release(tmp_path, "newest", index="2", age=-1)  # d4735e3a265e...
    full = hashlib.sha256(b"1").hexdigest()
    for name in (str(first), "first-and-renamed", "6", "6b86b273ff34", full):
        assert releases.find(tmp_path, name) == first, name
    assert releases.find(tmp_path, "d4735e") == releases.find(tmp_path, None) == newest


@pytest.mark.parametrize("name", ["6b86", ""])
def test_a_name_that_fits_several(tmp_path: Path, name: str) -> None:
    fake_release(tmp_path, "one", index="1")
    fake_release(tmp_path, "other", index="1")
    with raises(OwnerCode.RELEASE_AMBIGUOUS) as caught:
        releases.find(tmp_path, name)
    assert caught.value.code == "release.ambiguous"
    assert caught.value.message == f"The release {name!r} is ambiguous: it matches one, other."
    assert caught.value.hint == "Give the full name, or more of the id."


def test_a_whole_name_goes_before_the_beginning_of_an_id(tmp_path: Path) -> None:
    fake_release(tmp_path, "m", index="1")
    named = fake_release(tmp_path, "6b86", index="2")
    assert releases.find(tmp_path, "6b86") == named


@pytest.mark.parametrize("name", ["resnet50", "6b86b273ff35", "f", hashlib.sha256(b"1").hexdigest() + "0"])
def test_a_name_that_fits_none_lists_what_there_is(tmp_path: Path, name: str) -> None:
    fake_release(tmp_path, "resnet50-6b86b273ff34", index="1")
    (tmp_path / "resnet50").mkdir()
    with raises(OwnerCode.RELEASE_MISSING, match=f"The release '{name}' does not exist in ") as caught:
        releases.find(tmp_path, name)
    assert caught.value.code == "release.missing"
    assert caught.value.message.endswith("its releases are: resnet50-6b86b273ff34.")


def test_no_release_at_all(tmp_path: Path) -> None:
    assert not releases.any_in(tmp_path / "nowhere")
    with raises(OwnerCode.RELEASE_MISSING, match="does not contain a release") as caught:
        releases.find(tmp_path, None)
    assert (caught.value.hint or "").startswith("Build a release: `sealserve release build`.")
    with raises(OwnerCode.RELEASE_MISSING, match=r"its releases are: none\."):
        releases.find(tmp_path / "nowhere", "x")


def test_a_release_travels_as_one_file(ready: Site, tmp_path: Path) -> None:
    release = ready.build_release()
    tar = tmp_path / "release.tar"
    archive.pack(release.folder, tar)
    host = make_site(tmp_path / "elsewhere").workspace
    key = tmp_path / "owner.pub"
    key.write_bytes(ready.workspace.host.owner_key.read_bytes())

    unpacked = releases.unpack(host, tar, read_owner_key(key))

    assert unpacked.id == release.id
    assert unpacked.folder == host.host.releases / release.folder.name
    assert read_owner_key(key) == Owner.open(ready.workspace).index_signer().public_key()


def test_the_enclaves_are_verified_with_their_release(ready: Site, tmp_path: Path) -> None:
    release = ready.build_release()
    owner_key = Owner.open(ready.workspace).public_key()
    assert releases.verify(release.folder, owner_key).enclaves == ()
    for name in ("replica-1", "replica-0"):
        ready.build_enclave(release.folder, name=name)
    assert releases.verify(release.folder, owner_key).enclaves == ("replica-0", "replica-1")
    archive.pack(release.folder, tmp_path / "whole.tar")
    (release.folder / "enclave/replica-0.sig").write_bytes(b"changed")
    with raises(EnclaveCode.ENCLAVE_INDEX_FILES, match=r"changed: replica-0\.sig"):
        releases.verify(release.folder, owner_key)
    archive.pack(release.folder, tmp_path / "changed.tar")
    (release.folder / "enclave/index.json").unlink()
    with pytest.raises(EnclaveIndexMissingError, match="does not have a signed index of enclaves"):
        releases.verify(release.folder, owner_key)

    with raises(EnclaveCode.ENCLAVE_INDEX_FILES, match=r"changed: replica-0\.sig"):
        releases.unpack(ready.workspace, tmp_path / "changed.tar", owner_key)
    assert list(ready.workspace.host.releases.iterdir()) == []
    unpacked = releases.unpack(ready.workspace, tmp_path / "whole.tar", owner_key)
    assert unpacked.enclaves == ("replica-0", "replica-1")


def test_what_would_not_be_unpacked_is_not_packed(ready: Site, tmp_path: Path) -> None:
    release = ready.build_release()
    ready.build_enclave(release.folder, name="replica-0")
    releases.pack(ready.workspace, release.folder, tmp_path / "whole.tar")
    (release.folder / "enclave/replica-0.sig").unlink()
    with raises(EnclaveCode.ENCLAVE_INDEX_FILES, match=r"missing: replica-0\.sig"):
        releases.pack(ready.workspace, release.folder, tmp_path / "lacking.tar")
    (release.folder / "enclave/index.json").unlink()
    with pytest.raises(EnclaveIndexMissingError, match="does not have a signed index of enclaves"):
        releases.pack(ready.workspace, release.folder, tmp_path / "lacking.tar")
    assert not (tmp_path / "lacking.tar").exists()


def test_a_host_with_another_owners_key_takes_nothing(ready: Site, tmp_path: Path) -> None:
    release = ready.build_release()
    archive.pack(release.folder, tmp_path / "release.tar")
    host = make_site(tmp_path / "elsewhere").workspace
    with raises(SealingCode.INDEX_BAD_SIGNATURE):
        releases.unpack(host, tmp_path / "release.tar", Owner.create(host).public_key())
    assert list(host.host.releases.iterdir()) == []


def test_several_models_and_versions_are_sealed_whole_with_their_configuration(tmp_path: Path) -> None:
    first = saved_model(tmp_path / "first")
    for path in ("variables/variables.index", "assets/words.txt", "assets.extra/warmup", "fingerprint.pb"):
        (first / path).parent.mkdir(exist_ok=True)
        (first / path).write_text(path)
    second = saved_model(tmp_path / "second", constant=True)
    (tmp_path / "batching.config").write_text("max_batch_size { value: 8 }")
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true }")
    site = make_site(
        tmp_path / "site",
        model=[
            {"name": "resnet50", "path": first, "labels": ("stable",)},
            {"name": "resnet50", "path": second, "version": 12, "labels": ("canary",)},
            {"name": "bert", "path": second, "version": 3},
        ],
        server={
            "batching_parameters_file": tmp_path / "batching.config",
            "monitoring_config_file": tmp_path / "monitoring.config",
            "dangerous_shared_batches": True,
        },
    )
    site.import_model()
    site.certify()
    release = site.build_release()
    assert [(item.name, item.versions) for item in release.index.servables] == [("bert", (3,)), ("resnet50", (1, 12))]
    assert [file.path for file in release.index.files] == [
        "config/batching.config", "config/models.config", "config/monitoring.config", "config/session.config",
        "files.json",
        "models/bert/3/saved_model.pb",
        "models/resnet50/1/assets.extra/warmup", "models/resnet50/1/assets/words.txt",
        "models/resnet50/1/fingerprint.pb", "models/resnet50/1/saved_model.pb",
        "models/resnet50/1/variables/variables.index", "models/resnet50/12/saved_model.pb", "tls/clients.cfg",
    ]  # fmt: skip
    with Owner.open(site.workspace).vault() as vault, vault.database.read() as connection:
        key = vault.keystore.load(connection, KeyId(release.index.key_id))

    def plain(path: str) -> bytes:
        return unseal_bytes(release.folder / path, key=key, embedded_path=path).reveal()

    config = text_format.Parse(plain("config/models.config"), ModelServerConfig()).model_config_list.config
    assert [(item.name, item.base_path, list(item.model_version_policy.specific.versions)) for item in config] == [
        ("bert", "/release/models/bert", [3]),
        ("resnet50", "/release/models/resnet50", [1, 12]),
    ]
    assert dict(config[1].version_labels) == {"stable": 1, "canary": 12}
    assert plain("config/batching.config") == b"max_batch_size { value: 8 }"
    assert plain("models/resnet50/1/assets.extra/warmup") == b"assets.extra/warmup"
    listed = json.loads(plain("files.json"))["files"]
    assert [row["path"] for row in listed] == [f.path for f in release.index.files if f.path != "files.json"]
    for row in listed:
        content = plain(row["path"])
        assert (row["size"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_an_attested_server_does_not_batch_the_requests_of_several_users(ready: Site) -> None:
    path = ready.directory / "batching.config"
    path.write_text("max_batch_size { value: 8 }")

    def build(**settings: bool) -> Any:
        server = ready.deployment.server.model_copy(update={"batching_parameters_file": path, **settings})
        return server_config_files(ready.deployment.model_copy(update={"server": server}))

    with raises(OwnerCode.SERVER_CONFIG_SHARED_BATCHES, match="could answer one user with the input of another"):
        build()
    assert "config/batching.config" in build(dangerous_shared_batches=True)
    assert "config/batching.config" in build(dangerous_owner_tls_key=True)  # users cannot verify this server anyway


def test_a_configuration_that_the_server_would_refuse_is_refused_before_a_key_is_made(ready: Site) -> None:
    bad = ready.directory / "batching.config"
    bad.write_text("allowed_batch_sizes: [8]")
    server = ready.deployment.server.model_copy(
        update={"batching_parameters_file": bad, "dangerous_shared_batches": True}
    )
    with raises(ModelCode.SERVER_CONFIG_VALUE):
        releases.build(ready.workspace, ready.deployment.model_copy(update={"server": server}), now=ready.now)
    with Owner.open(ready.workspace).database() as database, database.read() as connection:
        assert connection.execute(select(KEYS.c.key_id)).all() == [(issuing.read_certificate(ready.workspace).key_id,)]
