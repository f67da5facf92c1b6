"""Documents in one form of JSON only, so that equal values have equal bytes, digests and signatures.

The form is RFC 8785's for the values that sealserve writes: objects with ASCII keys, arrays, text, booleans, null and
integers. There is one exception: an integer above 2**53 - 1 is written with all its digits. RFC 8785 reads numbers as
doubles and excludes such integers, but the version of a model has 63 bits, and a time in nanoseconds is a usual one.
"""

import json
from typing import Annotated, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sealserve.errors import ErrorCode

FILE_LIST_VERSION: Final = 1
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""In hexadecimal."""


def canonical_json(value: object) -> bytes:
    """Return ``value`` as JSON: UTF-8, sorted keys, no spaces, no newline at the end."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


class DocumentPart(BaseModel):
    """A part of a document: an unknown key, or a value of another type, is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_serialization_defaults_required=True
    )


class ListedFile(DocumentPart):
    """A file in a document: its path, its size in bytes, and the SHA-256 of its content."""

    path: str
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class CanonicalDocument(DocumentPart):
    """A whole document.

    Attributes:
        what: What to call such a document in errors.
        refusal: The error for a text that is no such document.
        refusal_hint: What to do then.
    """

    what: ClassVar[str]
    refusal: ClassVar[ErrorCode]
    refusal_hint: ClassVar[str | None] = None

    def to_bytes(self) -> bytes:
        """Return the document's bytes, in canonical form."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, content: bytes, *, name: str) -> Self:
        """Read a document. Only the canonical form is accepted: nothing can hide in duplicate keys.

        Args:
            content: The document's bytes.
            name: What to call it in errors.

        Raises:
            SealserveError: The class's ``refusal``: another schema, or not in canonical form.
        """
        try:
            document = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            message = first["msg"].removeprefix("Value error, ")
            raise cls.refusal.error(f"{name} is no {cls.what}: {where}: {message}.", hint=cls.refusal_hint) from error
        if document.to_bytes() != content:
            raise cls.refusal.error(f"{name} is not in canonical form (sorted keys, each once, no spaces).")
        return document


class FileListDocument(DocumentPart):
    """The list of a release's plaintext files, ``files.json``: the owner seals it, and the model server checks it.

    Paths are relative to the folder that holds the list. A list that a person wrote need not be in canonical form.
    """

    version: int
    files: tuple[ListedFile, ...]
