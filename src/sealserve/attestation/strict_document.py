"""JSON documents of the attestation protocols: one form for each value, limits on the size, and a code for each fault.

Each document is canonical JSON (see `sealserve.canonical_document`) with a ``type`` and a ``version``. The type
separates documents that one key signs or one digest covers. Bytes are base64url without padding. A new version of a
document has another ``version``, and a decoder accepts exactly the versions that it implements.

Source: RFC 8259 (JSON), RFC 8785 (canonical JSON), RFC 4648 section 5 (base64url).
"""

import json
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.strict_encoding import decode_base64url, encode_base64url
from sealserve.canonical_document import DocumentPart, canonical_json

_A = TypeVar("_A", bound="StrictDocument")
_B = TypeVar("_B", bound="StrictDocument")

LARGEST_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON library reads exactly. Source: RFC 8785 section 3.2.2.3."""


def _to_bytes(value: object) -> object:
    return decode_base64url(value) if isinstance(value, str) else value


Base64Url = Annotated[bytes, BeforeValidator(_to_bytes), PlainSerializer(encode_base64url, return_type=str)]
"""Bytes, written as base64url without padding."""


class SignedContent(DocumentPart):
    """A document and its detached signature. Neither is verified.

    Attributes:
        content: The exact bytes that the signature covers, after a prefix for the kind of document.
        signature: The signature.
    """

    content: Base64Url
    signature: Base64Url


class StrictDocument(DocumentPart):
    """A complete document. A subclass has the members ``type`` and ``version`` as literals.

    Attributes:
        what: The name of this kind of document in errors.
        limit: The maximum size in bytes.
    """

    what: ClassVar[str]
    limit: ClassVar[int]

    def to_bytes(self) -> bytes:
        """Return the document in canonical form."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Parse a document.

        1. The size is limited before anything is decoded.
        2. The content is one JSON object, in which no name occurs twice at any depth, and nothing follows it.
        3. The type is the expected type, so that a document is never read as another kind.
        4. The version is implemented. It is checked before the members, which differ between versions.
        5. Each member is known, and no member is missing or has the wrong type or form.
        6. The form is canonical, so that equal documents have equal bytes and digests.

        Args:
            content: The document's bytes.

        Raises:
            VerificationError: A step fails. Each cause has its own code: `document.size` (1); `document.json`,
                `document.duplicate-name` and `document.trailing-bytes` (2); `document.type` (3); `document.version`
                (4); `document.unknown-member`, `document.missing-member` and `document.member` (5);
                `document.canonical` (6).
        """
        if len(content) > cls.limit:  # (1)
            raise AttestationCode.DOCUMENT_SIZE.error(
                f"The {cls.what} is too large: expected at most {cls.limit} bytes, got {len(content)}."
            )
        members = _parse_object(content, cls.what)  # (2)
        for name, code in (("type", AttestationCode.DOCUMENT_TYPE), ("version", AttestationCode.DOCUMENT_VERSION)):
            expected, found = cls.model_fields[name].default, members.get(name)  # (3) (4)
            if found != expected or type(found) is not type(expected):
                raise code.error(
                    f"The {cls.what} has another {name}: expected {expected!r}, got {found!r:.60}.",
                    hint="Use a version of sealserve that supports this document." if name == "version" else None,
                )
        try:
            document = cls.model_validate_json(content)  # (5)
        except ValidationError as error:
            raise _fault(error, cls.what) from error
        if document.to_bytes() != content:  # (6)
            raise AttestationCode.DOCUMENT_CANONICAL.error(
                f"The {cls.what} is not in canonical form: expected sorted names without spaces between tokens."
            )
        return document


def parse_either(content: bytes, first: type[_A], second: type[_B]) -> _A | _B:
    """Parse a document of one of two kinds. Its type decides. See `StrictDocument.parse`."""
    larger = max((first, second), key=lambda kind: kind.limit)
    if len(content) <= larger.limit:
        found = _parse_object(content, first.what).get("type")
        if found == second.model_fields["type"].default:
            return second.parse(content)
    return first.parse(content)


class _TwiceError(ValueError):
    """A name occurs twice."""


def _parse_object(content: bytes, what: str) -> dict[str, Any]:
    try:
        text = content.decode()
        found, end = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant).raw_decode(text)
    except _TwiceError as error:
        raise AttestationCode.DOCUMENT_DUPLICATE_NAME.error(
            f"The {what} is ambiguous: a name occurs twice in one of its objects."
        ) from error
    except (ValueError, RecursionError) as error:
        raise AttestationCode.DOCUMENT_JSON.error(f"The {what} is malformed: it is not JSON in UTF-8.") from error
    if len(text) > end:
        raise AttestationCode.DOCUMENT_TRAILING_BYTES.error(
            f"The {what} is malformed: {len(text) - end} extra characters follow it."
        )
    if not isinstance(found, dict):
        raise AttestationCode.DOCUMENT_JSON.error(f"The {what} is malformed: expected a JSON object.")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _fault(error: ValidationError, what: str) -> Exception:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    order = ("extra_forbidden", "missing")  # an unknown name explains a missing name better than the reverse
    first = min(faults, key=lambda fault: order.index(fault["type"]) if fault["type"] in order else len(order))
    where = ".".join(str(part) for part in first["loc"])[:120].encode("unicode_escape").decode()
    match first["type"]:
        case "extra_forbidden":
            return AttestationCode.DOCUMENT_UNKNOWN_MEMBER.error(f"The {what} has the unknown member {where}.")
        case "missing":
            return AttestationCode.DOCUMENT_MISSING_MEMBER.error(f"The {what} lacks the member {where}.")
    message = first["msg"].removeprefix("Value error, ")
    return AttestationCode.DOCUMENT_MEMBER.error(f"The {what} is invalid: {where}: {message}.")
