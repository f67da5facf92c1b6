"""The reader of OpenSSF Model Signing signatures: malformed and hostile files. Nothing here is signed."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.errors import VerificationError
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.model_signature import compare_signed, parse_signature

DIGEST = "ab" * 32
Change = Callable[[dict[str, Any]], object]


def statement() -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": DIGEST}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": DIGEST} for name in ("a", "variables/variables.index")
            ],
        },
    }


def bundle(payload: dict[str, Any] | bytes | None = None) -> dict[str, Any]:
    content = payload if isinstance(payload, bytes) else json.dumps(payload or statement()).encode()
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(content).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": "AAAA"}],
        },
    }


def parse(document: dict[str, Any]) -> Any:
    return parse_signature(json.dumps(document).encode(), name="model.sig")


def changed(change: Change) -> dict[str, Any]:
    """Return a bundle with a changed statement."""
    found = statement()
    change(found)
    return bundle(found)


def test_the_files_and_the_material_are_returned() -> None:
    found = parse(bundle())
    assert found.files == {"a": DIGEST, "variables/variables.index": DIGEST}
    assert found.material["publicKey"] == {"hint": "x"}


def test_members_of_later_versions_of_the_predicate_are_ignored() -> None:
    assert parse(changed(lambda found: found["predicate"].update(card="x"))).files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
        (b"[]", "the file is not a JSON object"),
        (b"{}", "the bundle has other members"),
        (b'{"mediaType":1,"mediaType":2}', "a name occurs twice"),
        (b'{"a":{"b":1,"b":1}}', "a name occurs twice"),
    ],
)
def test_a_file_that_is_not_a_bundle(content: bytes, reason: str) -> None:
    with raises(SealingCode.MODEL_SIGNATURE_FORMAT, match=rf"^model\.sig is not .*{reason}"):
        parse_signature(content, name="model.sig")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # The package reads both spellings of a name. With both in one file, two readers could see two envelopes.
        (lambda found: found.update(dsse_envelope=found["dsseEnvelope"]), "the bundle has other members"),
        (lambda found: found.update(messageSignature={}), "the bundle has other members"),
        (lambda found: found["dsseEnvelope"].update(payload_type="x"), "dsseEnvelope has other members"),
        (lambda found: found.update(verificationMaterial=[]), "verificationMaterial is not a JSON object"),
        (lambda found: found.update(dsseEnvelope="x"), "dsseEnvelope is not a JSON object"),
        (lambda found: found["dsseEnvelope"].update(signatures=[]), "expected exactly one signature"),
        (lambda found: found["dsseEnvelope"].update(signatures={}), "expected exactly one signature"),
        (lambda found: found["dsseEnvelope"]["signatures"].append({"sig": "AAAA"}), "expected exactly one signature"),
        (lambda found: found["dsseEnvelope"].update(signatures=["x"]), "the signature is not a JSON object"),
        (lambda found: found["dsseEnvelope"].update(signatures=[{}]), "the signature has other members"),
        (lambda found: found["dsseEnvelope"]["signatures"][0].update(SIG="x"), "the signature has other members"),
        (lambda found: found["dsseEnvelope"]["signatures"][0].update(sig=1), "sig is not base64"),
        (lambda found: found["dsseEnvelope"].update(payload="!"), "payload is not base64"),
        (lambda found: found["dsseEnvelope"].update(payload="A_-A"), "payload is not base64"),
        (lambda found: found["dsseEnvelope"].update(payload="e30=\n"), "payload is not base64"),
        (lambda found: found["dsseEnvelope"].update(payload=None), "payload is not base64"),
        (lambda found: found["dsseEnvelope"].update(payload=""), "not JSON"),
    ],
)
def test_a_bundle_that_two_readers_could_read_differently(change: Change, reason: str) -> None:
    found = bundle()
    change(found)
    with raises(SealingCode.MODEL_SIGNATURE_FORMAT, match=reason):
        parse(found)


def test_a_statement_with_a_duplicate_name() -> None:
    content = json.dumps(statement()).replace('"resources"', '"resources": [], "resources"').encode()
    with raises(SealingCode.MODEL_SIGNATURE_FORMAT, match="a name occurs twice"):
        parse(bundle(content))


@pytest.mark.parametrize(
    "path",
    ["../a", "a/../../b", "/etc/passwd", "", ".", "a/./b", "a//b", "a/", "a\0b", "a\nb", "\ud800", "x" * 800, 7, None],
)
def test_a_path_outside_of_the_model(path: object) -> None:
    with raises(SealingCode.MODEL_SIGNATURE_FORMAT, match="is not a path inside the model's folder"):
        parse(changed(lambda found: found["predicate"]["resources"][0].update(name=path)))


@pytest.mark.parametrize("digest", ["", "ab", "AB" * 32, "zz" * 32, DIGEST + "00", 7, None])
def test_a_digest_that_is_not_sha256(digest: object) -> None:
    with raises(SealingCode.MODEL_SIGNATURE_FORMAT, match="the digest of 'a' is not a SHA-256"):
        parse(changed(lambda found: found["predicate"]["resources"][0].update(digest=digest)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found.pop("predicate"), "predicate is not a JSON object"),
        (lambda found: found["predicate"].pop("serialization"), "serialization is not a JSON object"),
        (lambda found: found["predicate"].update(resources=[]), "does not list any files"),
        (lambda found: found["predicate"].update(resources={"a": 1}), "does not list any files"),
        (lambda found: found["predicate"].update(resources=["a"]), "a resource is not a JSON object"),
        (lambda found: found["predicate"]["resources"][1].update(name="a"), "the file 'a' is listed twice"),
    ],
)
def test_a_statement_that_lists_no_files(change: Change, reason: str) -> None:
    with raises(SealingCode.MODEL_SIGNATURE_FORMAT, match=reason):
        parse(changed(change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found.update(_type="https://in-toto.io/Statement/v0.1"), "statement type"),
        (lambda found: found.update(predicateType="https://model_signing/Digests/v0.1"), "predicate type"),
        (lambda found: found["predicate"]["serialization"].update(method="shards"), "serialization: expected 'files'"),
        (lambda found: found["predicate"]["serialization"].update(hash_type="blake3"), "digest algorithm"),
        (lambda found: found["predicate"]["resources"][0].update(algorithm="md5"), "expected 'sha256', got 'md5'"),
        (lambda found: found["predicate"]["resources"][0].pop("algorithm"), "digest algorithm"),
    ],
)
def test_a_statement_of_another_kind(change: Change, reason: str) -> None:
    with raises(SealingCode.MODEL_SIGNATURE_UNSUPPORTED, match=reason):
        parse(changed(change))


def test_a_payload_of_another_type() -> None:
    found = bundle()
    found["dsseEnvelope"]["payloadType"] = "text/plain"
    with raises(SealingCode.MODEL_SIGNATURE_UNSUPPORTED, match="payload type"):
        parse(found)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damaged_files_have_a_code(noise: bytes, place: int) -> None:
    content = json.dumps(bundle()).encode()
    damaged = content[:place] + noise + content[place + len(noise) :]
    try:
        parse_signature(damaged, name="model.sig")
    except VerificationError as error:
        assert error.code.startswith("model-signature.")  # noqa: PT017  # each other exception fails the test


def test_equal_files_match() -> None:
    compare_signed({"a": DIGEST, "b": None}, {"a": DIGEST, "b": DIGEST}, name="m")


def test_each_difference_is_named() -> None:
    found = {"changed": "00" * 32, "more": DIGEST, **{f"new{number:02}": None for number in range(30)}}
    with raises(
        SealingCode.MODEL_SIGNATURE_MISMATCH,
        match=r"of the model m .*changed: 'changed'; missing: 'gone'; not signed: 'more', 'new00', .* and 11 more\.",
    ):
        compare_signed(found, {"changed": DIGEST, "gone": DIGEST}, name="m")
