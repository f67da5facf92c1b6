import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.errors import raises
from tests.harness.killing import interrupted_at, killed_at

from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.sealing import codec
from sealserve.sealing.codec import inspect_file, unseal_bytes
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.format_version import FormatVersion
from sealserve.sealing.release import Release, ReleaseContents, Servable, build_release, verify_release
from sealserve.sealing.release_files import (
    ReleaseFileChangedError,
    ReleaseFileExtraError,
    ReleaseFileMissingError,
    ReleaseFilesError,
)
from sealserve.sealing.release_index import ReleaseIndex, new_key_name, parse_index
from sealserve.sealing.signed_index import ENCLAVE_DOMAIN, RELEASE_DOMAIN, sign_index, verify_index
from sealserve.secret import SecretBytes

KEY_NAME = "00112233445566778899aabbccddeeff"
MODEL = "models/resnet50/1/saved_model.pb"
PATHS = (
    "config/models.config",
    "files.json",
    MODEL,
    "models/resnet50/1/variables/variables.data-00000-of-00001",
    "models/resnet50/1/variables/variables.index",
    "tls/ssl.cfg",
)


def test_what_is_built_verifies(release: Release, signer: Ed25519PrivateKey) -> None:
    verified = verify_release(release.folder, signer.public_key())
    assert verified.id == release.id == hashlib.sha256((release.folder / "release.json").read_bytes()).hexdigest()
    assert verified.index == release.index
    assert release.folder.name == f"resnet50-{release.id[:12]}"
    assert tuple(file.path for file in release.index.files) == PATHS
    for file in release.index.files:
        raw = (release.folder / file.path).read_bytes()
        assert (file.size, file.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())


def test_the_index_says_what_is_public_and_nothing_else(release: Release, key: SecretBytes) -> None:
    index = json.loads((release.folder / "release.json").read_bytes())
    assert index["created"] == "2026-11-23T18:22:05Z"
    assert index["key_id"] == KEY_NAME
    assert index["simulated"] is True
    assert index["file_format"] == "1.0"
    assert index["servables"] == [{"name": "resnet50", "versions": [1]}]
    assert key.reveal().hex() not in (release.folder / "release.json").read_text()


def test_every_file_opens_under_its_path_and_is_in_the_file_list(
    release: Release, model: Path, key: SecretBytes
) -> None:
    raw = unseal_bytes(release.folder / "files.json", key=key, embedded_path="files.json").reveal()
    listed = {row["path"]: row for row in json.loads(raw)["files"]}
    assert tuple(listed) == tuple(path for path in PATHS if path != "files.json")
    for path, row in listed.items():
        plain = unseal_bytes(release.folder / path, key=key, embedded_path=path).reveal()
        assert (row["size"], row["sha256"]) == (len(plain), hashlib.sha256(plain).hexdigest())
    assert (
        unseal_bytes(release.folder / MODEL, key=key, embedded_path=MODEL).reveal()
        == (model / "saved_model.pb").read_bytes()
    )


def test_an_index_has_one_form(release: Release) -> None:
    content = (release.folder / "release.json").read_bytes()
    assert parse_index(content).to_bytes() == content
    data = json.loads(content)
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert content == canonical


def test_building_again_gives_another_release(
    release: Release, contents: ReleaseContents, releases: Path, build: Callable[..., Release]
) -> None:
    again = build(contents)
    assert again.id != release.id
    assert {path.name for path in releases.iterdir()} == {release.folder.name, again.folder.name}
    assert [file.path for file in again.index.files] == [file.path for file in release.index.files]


def test_several_models_versions_and_formats(
    contents: ReleaseContents, model: Path, build: Callable[..., Release], signer: Ed25519PrivateKey
) -> None:
    more = [Servable(name=name, version=version, folder=model) for name, version in (("b", 2), ("a", 10), ("b", 1))]
    release = build(replace(contents, servables=more), key_id=new_key_name(), file_format=FormatVersion.V2_0)
    assert [(s.name, s.versions) for s in release.index.servables] == [("a", (10,)), ("b", (1, 2))]
    assert release.index.file_format == "2.0"
    assert inspect_file(release.folder / "models/b/1/saved_model.pb").version is FormatVersion.V2_0
    verify_release(release.folder, signer.public_key())


def test_another_owners_key_is_refused(release: Release) -> None:
    other = Ed25519PrivateKey.generate().public_key()
    with raises(
        SealingCode.INDEX_BAD_SIGNATURE,
        match=r"The signature of .*release\.json does not verify with the owner's key [0-9a-f]{16}\.\.\.",
    ) as refused:
        verify_release(release.folder, other)
    assert refused.value.code == "index.bad-signature"
    assert other.public_bytes_raw().hex()[:16] in refused.value.message


def test_a_signature_is_for_one_kind_of_index(signer: Ed25519PrivateKey) -> None:
    signature = sign_index(ENCLAVE_DOMAIN, b"{}", signer)
    verified = verify_index(ENCLAVE_DOMAIN, b"{}", signature, signer.public_key(), name="index.json")
    assert (verified.content, verified.sha256) == (b"{}", hashlib.sha256(b"{}").hexdigest())
    signer.public_key().verify(signature, b"sealserve enclave index v1\n{}")
    with raises(SealingCode.INDEX_BAD_SIGNATURE):
        verify_index(RELEASE_DOMAIN, b"{}", signature, signer.public_key(), name="release.json")
    with raises(
        SealingCode.INDEX_BAD_SIGNATURE,
        match=r"The signature of index\.json does not verify with the owner's key [0-9a-f]{16}\.\.\. "
        r"\(expected 64 bytes, got 63\)",
    ):
        verify_index(ENCLAVE_DOMAIN, b"{}", signature[:-1], signer.public_key(), name="index.json")


def test_a_changed_index_is_refused(release: Release, signer: Ed25519PrivateKey) -> None:
    path = release.folder / "release.json"
    path.write_bytes(path.read_bytes().replace(b'"simulated":true', b'"simulated":false'))
    with raises(SealingCode.INDEX_BAD_SIGNATURE):
        verify_release(release.folder, signer.public_key())


def signed(release: Release, signer: Ed25519PrivateKey, content: bytes) -> None:
    (release.folder / "release.json").write_bytes(content)
    (release.folder / "release.json.sig").write_bytes(sign_index(RELEASE_DOMAIN, content, signer))


BAD_INDEXES: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "unknown field": (lambda index: index | {"more": 1}, "more: Extra inputs are not permitted"),
    "other version": (lambda index: index | {"version": 2}, "version: Input should be 1"),
    "number as text": (lambda index: index | {"version": "1"}, "version: Input should be 1"),
    "no time": (lambda index: index | {"created": "2026-11-23"}, "created: "),
    "short time": (lambda index: index | {"created": "2026-1-3T1:2:3Z"}, "created: expected YYYY-MM-DD"),
    "no files": (lambda index: index | {"files": []}, "files: "),
    "key id": (lambda index: index | {"key_id": "00" * 15}, "key_id: "),
    "secret form": (lambda index: index | {"secret_form": "hex"}, "secret_form: Input should be 'raw' or 'string'"),
    "versions": (
        lambda index: index | {"servables": [{"name": "m", "versions": [2, 1]}]},
        "versions must be in ascending order, without duplicates",
    ),
    "servables": (
        lambda index: index | {"servables": [{"name": name, "versions": [1]} for name in "ba"]},
        "servables must be in ascending order, without duplicates",
    ),
    "no object": (lambda _: [], "the file: "),
}


@pytest.mark.parametrize("form", SecretForm)
def test_the_signed_index_states_a_chosen_form_of_the_key(
    form: SecretForm, contents: ReleaseContents, tmp_path: Path, signer: Ed25519PrivateKey
) -> None:
    built = build_release(
        replace(contents, secret_form=form), tmp_path, key=SecretBytes(bytes(16)), key_id="0" * 32, signer=signer
    )
    assert verify_release(built.folder, signer.public_key()).index.secret_form is form
    written = json.loads((built.folder / "release.json").read_text())
    assert written["secret_form"] == form
    jsonschema.Draft202012Validator(ReleaseIndex.model_json_schema(mode="serialization")).validate(written)
    content = (built.folder / "release.json").read_bytes()
    signed(built, signer, content.replace(f'"{form}"'.encode(), b"null"))
    with raises(SealingCode.RELEASE_INVALID_INDEX, match="not in canonical JSON form"):  # an absent form has no key
        verify_release(built.folder, signer.public_key())
    (built.folder / "release.json").write_bytes(content.replace(f'"secret_form":"{form}",'.encode(), b""))
    with raises(SealingCode.INDEX_BAD_SIGNATURE):
        verify_release(built.folder, signer.public_key())


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_a_signed_index_of_another_schema_is_refused(case: str, release: Release, signer: Ed25519PrivateKey) -> None:
    change, message = BAD_INDEXES[case]
    changed = change(json.loads((release.folder / "release.json").read_bytes()))
    signed(release, signer, json.dumps(changed, sort_keys=True, separators=(",", ":")).encode())
    with raises(SealingCode.RELEASE_INVALID_INDEX, match=message) as refused:
        verify_release(release.folder, signer.public_key())
    assert refused.value.code == "release.invalid-index"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["files.json", "../x"], "is not a permitted path of a sealed file"),
        (["/x", "files.json"], "is not a permitted path of a sealed file"),
        (["enclave/x", "files.json"], "is not a permitted path of a sealed file"),
        (["files.json", "release.json"], "is not a permitted path of a sealed file"),
        (["files.json", "files.json"], "ascending order, without duplicates"),
        (["models/x", "files.json"], "ascending order, without duplicates"),
        (["files.json", "files.json/x"], "is below another file"),
        (["models/x"], "'files.json' is missing"),
    ],
)
def test_an_index_with_such_paths_is_refused(
    paths: list[str], message: str, release: Release, signer: Ed25519PrivateKey
) -> None:
    index = json.loads((release.folder / "release.json").read_bytes())
    index["files"] = [{"path": path, "size": 4096, "sha256": "0" * 64} for path in paths]
    signed(release, signer, json.dumps(index, sort_keys=True, separators=(",", ":")).encode())
    with raises(SealingCode.RELEASE_INVALID_INDEX, match=message):
        verify_release(release.folder, signer.public_key())


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw + b"\n",
        lambda raw: raw.replace(b'":', b'": '),
        lambda raw: b'{"simulated":false,' + raw[1:],  # a duplicate key: other parsers use the other value
    ],
)
def test_an_index_in_another_form_is_refused(
    change: Callable[[bytes], bytes], release: Release, signer: Ed25519PrivateKey
) -> None:
    signed(release, signer, change((release.folder / "release.json").read_bytes()))
    with raises(
        SealingCode.RELEASE_INVALID_INDEX,
        match=r"release\.json is not in canonical JSON form: expected sorted, unique keys without "
        r"spaces between tokens",
    ):
        verify_release(release.folder, signer.public_key())


def difference(release: Release, signer: Ed25519PrivateKey) -> ReleaseFilesError:
    with pytest.raises(ReleaseFilesError) as refused:
        verify_release(release.folder, signer.public_key())
    return refused.value


def test_each_changed_file_is_named(release: Release, signer: Ed25519PrivateKey) -> None:
    for path in (MODEL, "tls/ssl.cfg"):
        raw = bytearray((release.folder / path).read_bytes())
        raw[-1] ^= 1
        (release.folder / path).write_bytes(raw)
    (release.folder / "files.json").write_bytes(b"")
    error = difference(release, signer)
    assert isinstance(error, ReleaseFileChangedError)
    assert error.code == "release.file-changed"
    assert error.changed == ("files.json", MODEL, "tls/ssl.cfg")
    assert f"changed: 'files.json', '{MODEL}', 'tls/ssl.cfg'" in error.message


def test_each_missing_file_is_named(release: Release, signer: Ed25519PrivateKey) -> None:
    for path in (MODEL, "tls/ssl.cfg"):
        (release.folder / path).unlink()
    error = difference(release, signer)
    assert isinstance(error, ReleaseFileMissingError)
    assert error.code == "release.file-missing"
    assert f"missing: '{MODEL}', 'tls/ssl.cfg'" in error.message
    assert error.extra == ("tls",)  # the folder is now empty


def test_each_extra_file_is_named(release: Release, signer: Ed25519PrivateKey) -> None:
    (release.folder / "models/resnet50/2").mkdir()
    (release.folder / "models/resnet50/1/more").write_bytes(b"")
    (release.folder / "link").symlink_to("/etc/passwd")
    error = difference(release, signer)
    assert isinstance(error, ReleaseFileExtraError)
    assert error.code == "release.file-extra"
    assert error.extra == ("link", "models/resnet50/1/more", "models/resnet50/2")
    assert "not in the index: 'link', 'models/resnet50/1/more', 'models/resnet50/2'" in error.message


@pytest.mark.parametrize("kind", ["link", "file"])
def test_only_a_folder_may_have_the_name_of_the_enclaves_folder(
    release: Release, signer: Ed25519PrivateKey, kind: str
) -> None:
    place = release.folder / "enclave"
    if kind == "link":
        place.symlink_to("/etc")
    else:
        place.write_bytes(b"")
    error = difference(release, signer)
    assert isinstance(error, ReleaseFileExtraError)
    assert error.extra == ("enclave",)
    place.unlink()
    place.mkdir()
    assert verify_release(release.folder, signer.public_key()).id == release.id


def test_all_differences_are_told_at_once_and_counted_when_many(release: Release, signer: Ed25519PrivateKey) -> None:
    (release.folder / MODEL).unlink()
    (release.folder / "tls/ssl.cfg").write_bytes(b"")
    for number in range(1010):
        (release.folder / f"more-{number:04}").write_bytes(b"")
    error = difference(release, signer)
    assert isinstance(error, ReleaseFileChangedError)
    assert f"changed: 'tls/ssl.cfg'; missing: '{MODEL}'; not in the index: 'more-0000'" in error.message
    assert error.message.endswith("'more-0999' and 10 more.")
    assert len(error.extra) == 1010


def test_a_link_in_the_place_of_a_file_is_refused(release: Release, signer: Ed25519PrivateKey) -> None:
    (release.folder / MODEL).rename(release.folder.parent / "elsewhere")
    (release.folder / MODEL).symlink_to(release.folder.parent / "elsewhere")
    error = difference(release, signer)
    assert isinstance(error, ReleaseFileMissingError)
    assert error.missing == (MODEL,)


def test_a_link_in_the_place_of_a_folder_is_refused(release: Release, signer: Ed25519PrivateKey) -> None:
    (release.folder / "tls").rename(release.folder.parent / "elsewhere")
    (release.folder / "tls").symlink_to(release.folder.parent / "elsewhere")
    error = difference(release, signer)
    assert error.missing == ("tls/ssl.cfg",)
    assert error.extra == ("tls",)


def test_the_enclave_folder_is_not_part_of_the_index(release: Release, signer: Ed25519PrivateKey) -> None:
    (release.folder / "enclave").mkdir()
    verify_release(release.folder, signer.public_key())
    (release.folder / "enclave" / "replica-0.sig").write_bytes(b"")
    verify_release(release.folder, signer.public_key())


def test_an_enclave_that_is_no_folder_is_extra(release: Release, signer: Ed25519PrivateKey) -> None:
    (release.folder / "enclave").symlink_to("/")
    assert difference(release, signer).extra == ("enclave",)


@pytest.mark.parametrize("name", ["release.json", "release.json.sig"])
def test_half_a_release_is_told(name: str, release: Release, signer: Ed25519PrivateKey) -> None:
    (release.folder / name).unlink()
    with raises(
        SealingCode.RELEASE_INCOMPLETE, match=f"is not a complete release: the file {name} is missing"
    ) as refused:
        verify_release(release.folder, signer.public_key())
    assert refused.value.code == "release.incomplete"


def test_a_signature_of_megabytes_is_not_read(release: Release, signer: Ed25519PrivateKey) -> None:
    (release.folder / "release.json.sig").write_bytes(bytes(2**20))
    with raises(
        SealingCode.RELEASE_INCOMPLETE,
        match=r"release\.json\.sig is not a file that sealserve wrote: expected at most 128 bytes",
    ):
        verify_release(release.folder, signer.public_key())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Res Net"}, "name of a release or servable is invalid: 'Res Net'"),
        ({"name": ""}, "name of a release or servable is invalid: ''"),
        ({"servables": []}, "contains no servables"),
        ({"files": {"../x": b""}}, "in the release is invalid or reserved: '../x'"),
        ({"files": {"release.json": b""}}, "in the release is invalid or reserved: 'release.json'"),
        ({"files": {"enclave/x": b""}}, "in the release is invalid or reserved: 'enclave/x'"),
        ({"files": {"models/x": b""}}, "in the release is invalid or reserved: 'models/x'"),
        ({"files": {"a": b"", "a/b": b""}}, "'a' is both a file and the parent folder of 'a/b'"),
    ],
)
def test_contents_that_do_not_fit_together_are_refused(
    change: dict[str, Any], message: str, contents: ReleaseContents, releases: Path, build: Callable[..., Release]
) -> None:
    with raises(SealingCode.RELEASE_INVALID_CONTENTS, match=message) as refused:
        build(replace(contents, **change))
    assert refused.value.code == "release.invalid-contents"
    assert list(releases.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (-1, "version of the servable 'resnet50' is invalid: expected 0 to 9223372036854775807, got -1"),
        (2**63, f"version of the servable 'resnet50' is invalid: expected 0 to 9223372036854775807, got {2**63}"),
        (1, "servable 'resnet50' has version 1 twice"),
    ],
)
def test_a_version_is_a_64_bit_number_and_occurs_once(
    version: int, message: str, contents: ReleaseContents, model: Path, build: Callable[..., Release]
) -> None:
    more = [*contents.servables, Servable(name="resnet50", version=version, folder=model)]
    with raises(SealingCode.RELEASE_INVALID_CONTENTS, match=message):
        build(replace(contents, servables=more))


@pytest.mark.parametrize("version", [0, 2**63 - 1])
def test_the_smallest_and_the_largest_version(
    version: int, contents: ReleaseContents, model: Path, build: Callable[..., Release]
) -> None:
    built = build(replace(contents, servables=[Servable(name="m", version=version, folder=model)]))
    assert built.index.servables[0].versions == (version,)


def test_a_key_id_must_be_one(contents: ReleaseContents, releases: Path, build: Callable[..., Release]) -> None:
    with raises(SealingCode.RELEASE_INVALID_CONTENTS, match="cannot be built: key_id"):
        build(contents, key_id="release")
    assert list(releases.iterdir()) == []


def test_a_time_needs_a_time_zone(contents: ReleaseContents, releases: Path, build: Callable[..., Release]) -> None:
    with pytest.raises(ValueError, match="the time requires a time zone"):
        build(replace(contents, created=contents.created.replace(tzinfo=None)))
    assert list(releases.iterdir()) == []


def test_a_failure_leaves_nothing(
    contents: ReleaseContents, model: Path, releases: Path, build: Callable[..., Release]
) -> None:
    def cancel(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(contents, progress=cancel)
    (model / "link").symlink_to("saved_model.pb")
    with raises(SealingCode.TREE_NOT_REGULAR):
        build(contents)
    assert list(releases.iterdir()) == []


def test_a_repr_shows_no_secret(contents: ReleaseContents) -> None:
    assert "server_key" not in repr(contents)


@pytest.mark.parametrize("ends", [killed_at, interrupted_at])
def test_an_end_at_any_moment_leaves_a_whole_release_or_nothing_that_looks_like_one(
    ends: Callable[[int, Callable[[], object]], bool],
    contents: ReleaseContents,
    build: Callable[..., Release],
    releases: Path,
    signer: Ed25519PrivateKey,
) -> None:
    step = whole = 0
    while ends(step, lambda: build(contents)):
        for left in releases.iterdir():
            if left.name.startswith("."):
                assert left.name.endswith(".partial")
            else:
                verify_release(left, signer.public_key())
                whole += 1
            # Each step starts without leftovers: the time to remove them would change what the same step number means.
            shutil.rmtree(left)
        step += 1
    shutil.rmtree(releases)
    releases.mkdir()
    assert ends(step // 2, lambda: build(contents))
    build(contents)
    (release,) = releases.iterdir()  # the next build removed the leftovers
    verify_release(release, signer.public_key())
    assert step > 30
    assert whole > 0


def test_the_published_schema_accepts_a_release_and_refuses_what_the_reader_refuses(release: Release) -> None:
    root = Path(__file__).parents[3]
    schema = jsonschema.Draft202012Validator(json.loads((root / "docs/reference/release.schema.json").read_text()))
    index = json.loads((release.folder / "release.json").read_text())
    schema.validate(index)
    for case in (
        "unknown field",
        "other version",
        "number as text",
        "no time",
        "short time",
        "no files",
        "key id",
        "secret form",
    ):
        change, _ = BAD_INDEXES[case]
        assert not schema.is_valid(change(index)), case
    for key in index:
        assert not schema.is_valid({name: value for name, value in index.items() if name != key}), key
    signer = {"method": "key", "identity": "ab" * 32, "issuer": None}
    index["servables"][0]["signers"] = [{"version": 1, "signer": signer}]
    schema.validate(index)
    index["servables"][0]["signers"] = []
    assert not schema.is_valid(index)


def test_the_page_and_the_schema_name_each_key(release: Release) -> None:
    root = Path(__file__).parents[3]
    schema = json.loads((root / "docs/reference/release.schema.json").read_text())
    written = json.loads((release.folder / "release.json").read_text())
    assert set(schema["properties"]) - {"secret_form"} == set(schema["required"]) == set(written)
    page = (root / "docs/reference/release-json.md").read_text()
    for key in ("secret_form", *written, *written["files"][0], *written["servables"][0]):
        assert f"`{key}`" in page


@pytest.fixture
def many(contents: ReleaseContents, model: Path) -> ReleaseContents:
    for number in range(8):
        (model / f"part-{number}").write_bytes(bytes(100_000))
    return contents


def test_files_are_sealed_several_at_a_time(
    many: ReleaseContents, build: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    meeting = threading.Barrier(2, timeout=60)  # requires two threads at the same time
    original = codec.seal_digested

    def meet(source: Path, *arguments: Any, **more: Any) -> Any:
        if source.name in ("part-0", "part-1"):
            meeting.wait()
        return original(source, *arguments, **more)

    monkeypatch.setattr(codec, "seal_digested", meet)
    done: list[int] = []
    release = build(many, progress=done.append)
    assert [file.path for file in release.index.files] == sorted(file.path for file in release.index.files)
    assert sum(done) >= 800_000


def test_when_it_is_interrupted_all_files_stop_and_nothing_is_left(
    many: ReleaseContents, build: Callable[..., Release], releases: Path
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(many, progress=interrupt)
    assert list(releases.iterdir()) == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("sealing")] == []
