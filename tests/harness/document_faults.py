"""Faults that any document of the attestation protocol can have, each with the code of its refusal."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sealserve.attestation.codes import AttestationCode
from sealserve.canonical_document import canonical_json


@dataclass(frozen=True, slots=True)
class Fault:
    """A faulty form of a document."""

    name: str
    content: bytes
    code: AttestationCode


def faults_of(raw: bytes, *, limit: int) -> Iterator[Fault]:
    """Yield faulty forms of a document, with at most ``limit`` bytes except for the first."""
    document: dict[str, Any] = json.loads(raw)

    def changed(**changes: Any) -> bytes:
        return canonical_json({**document, **changes})

    yield Fault("too large", raw + b" " * (limit + 1 - len(raw)), AttestationCode.DOCUMENT_SIZE)
    for name, content in (
        ("empty", b""),
        ("not UTF-8", raw[:-1] + b"\xff}"),
        ("truncated", raw[:-1]),
        ("no JSON", b"release"),
        ("an array", b"[" + raw[1:-1].replace(raw[1:-1], b"") + b"]"),
        ("a text", b'"x"'),
        ("null", b"null"),
        ("NaN", raw[:-1] + b',"zz":NaN}'),
        ("nested too deeply", b'{"zz":' + b"[" * min(limit - 40, 8000) + b"}"),
        ("a space first", b" " + raw),
        ("a byte order mark", b"\xef\xbb\xbf" + raw),
    ):
        yield Fault(name, content, AttestationCode.DOCUMENT_JSON)
    first = next(iter(document))
    again = json.dumps({first: document[first]}, separators=(",", ":"), ensure_ascii=False).encode()[1:-1]
    yield Fault("a name twice", raw[:-1] + b"," + again + b"}", AttestationCode.DOCUMENT_DUPLICATE_NAME)
    yield Fault("a name twice inside", raw[:-1] + b',"zz":{"a":1,"a":1}}', AttestationCode.DOCUMENT_DUPLICATE_NAME)
    for name, end in (("another document", b"{}"), ("a new line", b"\n"), ("a NUL", b"\0"), ("a brace", b"}")):
        yield Fault(f"{name} after it", raw + end, AttestationCode.DOCUMENT_TRAILING_BYTES)
    kind: str = document["type"]
    for name, value in (
        ("another type", "sealserve.other"),
        ("a type in capitals", kind.upper()),
        ("no type", None),
        ("a type with a space", f"{kind} "),
    ):
        yield Fault(name, changed(type=value), AttestationCode.DOCUMENT_TYPE)
    own: int = document["version"]
    for version in (0, own - 1, own + 1, -own, str(own), float(own), True, None, [own], 10**30):
        yield Fault(f"version {version!r}", changed(version=version), AttestationCode.DOCUMENT_VERSION)
    yield Fault("an unknown member", changed(zz=1), AttestationCode.DOCUMENT_UNKNOWN_MEMBER)
    yield Fault("a member with a control character", changed(**{"\x01": 1}), AttestationCode.DOCUMENT_UNKNOWN_MEMBER)
    for name in document.keys() - {"type", "version"}:
        without = {other: value for other, value in document.items() if other != name}
        yield Fault(f"no {name}", canonical_json(without), AttestationCode.DOCUMENT_MISSING_MEMBER)
        yield Fault(
            f"{name} is an object of another form", changed(**{name: {"x": [0]}}), _inside(name, document[name])
        )
        yield Fault(f"{name} is a list of lists", changed(**{name: [[0]]}), AttestationCode.DOCUMENT_MEMBER)
    spaced = json.dumps(document, sort_keys=True, ensure_ascii=False).encode()
    yield Fault("spaces", spaced, AttestationCode.DOCUMENT_CANONICAL)
    backwards = dict(sorted(document.items(), reverse=True))
    turned = json.dumps(backwards, separators=(",", ":"), ensure_ascii=False).encode()
    yield Fault("names in another order", turned, AttestationCode.DOCUMENT_CANONICAL)
    escaped = raw.replace(b'"type"', b'"\\u0074ype"')
    yield Fault("an unnecessary escape", escaped, AttestationCode.DOCUMENT_CANONICAL)


def _inside(name: str, value: Any) -> AttestationCode:
    """Return the code for an object in place of a value. Only the names of collateral are not fixed."""
    fixed = isinstance(value, dict) and name != "collateral"
    return AttestationCode.DOCUMENT_UNKNOWN_MEMBER if fixed else AttestationCode.DOCUMENT_MEMBER
