"""The content of an OpenSSF Model Signing signature (OMS, predicate version 1.0): which files with which digests.

The signature file is a Sigstore bundle: JSON with a DSSE envelope, whose payload is an in-toto statement. This module
reads the payload and compares it with files. The package ``model-signing`` verifies the signature itself (see
`sealserve.owner.model_signature`).

That package tolerates duplicate JSON names, alternative spellings of a name, and other characters between the digits of
base64. This reader rejects all of them, so that the two readers cannot see different payloads in one file.

Source: sigstore/model-transparency 1.1.1 (``_signing/signing.py``, ``manifest.py``), DSSE 1.0, in-toto statement 1.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sealserve.attested.release_statement import ModelSigner
from sealserve.errors import SealserveError
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import is_safe_relative

MAX_SIGNATURE: Final = 16 * 2**20
"""Maximum size of a signature file in bytes: about 60,000 files. The package reads the whole file into memory."""
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_METHOD: Final = "files"
_DIGEST: Final = "sha256"
_HEX_DIGITS: Final = frozenset("0123456789abcdef")
_SHA256_DIGITS: Final = 64
_NAMED: Final = 20  # maximum number of files that a message lists


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureContent:
    """The content of a signature file. Nothing in it is verified.

    Attributes:
        files: The SHA-256 of each signed file, by the path relative to the model's folder.
        material: The bundle's verification material: certificates, or a hint to the public key.
    """

    files: Mapping[str, str]
    material: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedModel:
    """What a verified signature states about a model.

    Attributes:
        signer: The signer.
        files: The SHA-256 of each signed file, by the path relative to the model's folder.
    """

    signer: ModelSigner
    files: Mapping[str, str]


def parse_signature(content: bytes, *, name: str) -> SignatureContent:
    """Parse a signature file. The signature is not verified.

    1. The file is one JSON object without duplicate names. It has exactly the members of a bundle with an envelope.
    2. The envelope has one signature, and its payload is an in-toto statement.
    3. The statement is an OMS statement of version 1.0 about whole files with SHA-256.
    4. Each path is relative, normalized and listed once.

    Args:
        content: The file's bytes. The caller limits the size to `MAX_SIGNATURE`.
        name: The file's name in errors.

    Raises:
        VerificationError: `model-signature.format` if the file is malformed or ambiguous.
        VerificationError: `model-signature.unsupported` if it is a statement of another kind, or with other digests.
    """
    bundle = _json(content, name)  # (1)
    _members(bundle, {"mediaType", "verificationMaterial", "dsseEnvelope"}, name, "the bundle")
    material = _object(bundle["verificationMaterial"], name, "verificationMaterial")
    envelope = _object(bundle["dsseEnvelope"], name, "dsseEnvelope")  # (2)
    _members(envelope, {"payload", "payloadType", "signatures"}, name, "dsseEnvelope")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise _malformed(name, "expected exactly one signature in dsseEnvelope")
    _members(_object(signatures[0], name, "the signature") | {"keyid": ""}, {"sig", "keyid"}, name, "the signature")
    _base64(signatures[0]["sig"], name, "sig")
    statement = _json(_base64(envelope["payload"], name, "payload"), name)
    predicate = _predicate(statement, str(envelope["payloadType"]), name)  # (3)
    files: dict[str, str] = {}
    resources = predicate.get("resources")
    for resource in resources if isinstance(resources, list) else ():  # (4)
        path, digest = _resource(resource, name)
        if path in files:
            raise _malformed(name, f"the file {path!r} is listed twice")
        files[path] = digest
    if not files:
        raise _malformed(name, "the statement does not list any files")
    return SignatureContent(files=files, material=material)


def compare_signed(found: Mapping[str, str | None], signed: Mapping[str, str], *, name: str) -> None:
    """Check that a model has exactly the signed files.

    Args:
        found: The SHA-256 of each file of the model, by its path in the model's folder. With None instead of a digest,
            only the path is compared.
        signed: The SHA-256 of each signed file.
        name: The model's name in errors.

    Raises:
        VerificationError: `model-signature.mismatch` if a file is missing, is not signed, or differs.
    """
    kinds = {
        "changed": [path for path, sha256 in found.items() if sha256 and path in signed and sha256 != signed[path]],
        "missing": [path for path in signed if path not in found],
        "not signed": [path for path in found if path not in signed],
    }
    if differences := "; ".join(f"{kind}: {_some(paths)}" for kind, paths in kinds.items() if paths):
        raise SealingCode.MODEL_SIGNATURE_MISMATCH.error(
            f"The files of the model {name} do not match its signature: {differences}.",
            hint="Get the model and its signature again from the signer, without other files. A model that sealserve "
            "converts has other files than its source: have the converted copy signed.",
        )


def _predicate(statement: Mapping[str, Any], payload_type: str, name: str) -> Mapping[str, Any]:
    _expect(name, "payload type", payload_type, _PAYLOAD_TYPE)
    _expect(name, "statement type", statement.get("_type"), _STATEMENT)
    _expect(name, "predicate type", statement.get("predicateType"), _PREDICATE)
    predicate = _object(statement.get("predicate"), name, "predicate")
    serialization = _object(predicate.get("serialization"), name, "serialization")
    _expect(name, "serialization", serialization.get("method"), _METHOD)
    _expect(name, "digest algorithm", serialization.get("hash_type"), _DIGEST)
    return predicate


def _resource(resource: object, name: str) -> tuple[str, str]:
    members = _object(resource, name, "a resource")
    path, algorithm, digest = (members.get(key) for key in ("name", "algorithm", "digest"))
    _expect(name, "digest algorithm", algorithm, _DIGEST)
    if not isinstance(path, str) or not is_safe_relative(path):
        raise _malformed(name, f"{path!r:.100} is not a path inside the model's folder")
    if not isinstance(digest, str) or len(digest) != _SHA256_DIGITS or not _HEX_DIGITS.issuperset(digest):
        raise _malformed(name, f"the digest of {path!r:.100} is not a SHA-256 in hexadecimal")
    return path, digest


class _TwiceError(ValueError):
    """A name occurs twice in a JSON object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def _json(content: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content.decode(), object_pairs_hook=_unique)
    except _TwiceError as error:
        raise _malformed(name, "a name occurs twice in a JSON object") from error
    except (ValueError, RecursionError) as error:
        raise _malformed(name, "it is not JSON in UTF-8") from error
    return _object(found, name, "the file")


def _object(value: object, name: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(name, f"{what} is not a JSON object")
    return value


def _members(found: Mapping[str, Any], expected: set[str], name: str, what: str) -> None:
    if found.keys() != expected:
        raise _malformed(name, f"{what} has other members than {', '.join(sorted(expected))}")


def _base64(value: object, name: str, what: str) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "-", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed(name, f"{what} is not base64") from error


def _malformed(name: str, reason: str) -> SealserveError:
    return SealingCode.MODEL_SIGNATURE_FORMAT.error(
        f"{name} is not an OpenSSF Model Signing signature: {reason}.", hint="Get the file from the signer again."
    )


def _expect(name: str, what: str, found: object, expected: str) -> None:
    if found != expected:
        raise SealingCode.MODEL_SIGNATURE_UNSUPPORTED.error(
            f"{name} is a signature of a kind that sealserve does not support: {what}: expected {expected!r}, got "
            f"{found!r:.100}.",
            hint="Have the model signed with model-signing 1.0 or later, with SHA-256 of whole files (the default).",
        )


def _some(paths: list[str]) -> str:
    rest = len(paths) - _NAMED
    return ", ".join(repr(path) for path in sorted(paths)[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
