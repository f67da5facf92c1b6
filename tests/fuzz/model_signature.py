"""Signatures of models from an untrusted sender: each lists safe paths with digests, or has one printable error."""

import base64
import json
from collections.abc import Iterator

from sealserve.errors import VerificationError
from sealserve.sealing.embedded_path import is_safe_relative
from sealserve.sealing.model_signature import parse_signature

_DIGEST = "ab" * 32


def _bundle(payload: bytes) -> bytes:
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": "AAAA", "keyid": ""}],
    }
    return json.dumps({"mediaType": "x", "verificationMaterial": {}, "dsseEnvelope": envelope}).encode()


def seeds() -> Iterator[bytes]:
    """Yield a statement and a bundle."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256"},
            "resources": [{"name": name, "algorithm": "sha256", "digest": _DIGEST} for name in ("a", "b/c")],
        },
    }
    yield json.dumps(statement).encode()
    yield _bundle(json.dumps(statement).encode())


def fuzz(data: bytes) -> None:
    """Parse ``data`` as a signature, and as the statement in a signature."""
    for content in (data, _bundle(data)):
        try:
            found = parse_signature(content, name="model.sig")
        except VerificationError as error:
            message = error.message
        else:
            message = ""
            assert all(is_safe_relative(path) and len(digest) == len(_DIGEST) for path, digest in found.files.items())
        assert message.isprintable()
