"""Documents with exactly one JSON form, so that equal values have equal bytes, digests and signatures.

The form follows RFC 8785 for the values that sealserve writes: objects with ASCII keys, arrays, text, booleans, null
and integers. It has one exception: an integer above 2**53 - 1 is written with all its digits. RFC 8785 treats numbers
as doubles and excludes such integers. But a model version has 63 bits, and times in nanoseconds are common versions.
"""

import json
from typing import Annotated, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sealserve.errors import ErrorCode

FILE_LIST_VERSION: Final = 1
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in hexadecimal."""


def canonical_json(value: object) -> bytes:
    """Return ``value`` as canonical JSON: UTF-8, sorted keys, no spaces, no final newline."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


class DocumentPart(BaseModel):
    """A part of a document. Unknown keys and values of the wrong type are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_serialization_defaults_required=True
    )


class ListedFile(DocumentPart):
    """A file in a document: its path, its size in bytes, and the SHA-256 of its content."""

    path: str
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class CanonicalDocument(DocumentPart):
    """A complete document.

    Attributes:
        what: The name of this kind of document in errors.
        refusal: The code of the error for an invalid document.
        refusal_hint: The hint of that error, or `None`.
    """

    what: ClassVar[str]
    refusal: ClassVar[ErrorCode]
    refusal_hint: ClassVar[str | None] = None

    def to_bytes(self) -> bytes:
        """Return the document's bytes, in canonical form."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, content: bytes, *, name: str) -> Self:
        """Parse a document. Only the canonical form is accepted, so duplicate keys are rejected.

        Args:
            content: The document's bytes.
            name: The document's name in errors.

        Raises:
            SealserveError: The error with the code ``refusal``: the schema is violated, or the form is not canonical.
        """
        try:
            document = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            message = first["msg"].removeprefix("Value error, ")
            raise cls.refusal.error(
                f"{name} is not a valid {cls.what}: {where}: {message}.", hint=cls.refusal_hint
            ) from error
        if document.to_bytes() != content:
            raise cls.refusal.error(
                f"{name} is not in canonical JSON form: expected sorted, unique keys without spaces between tokens.",
                hint=cls.refusal_hint,
            )
        return document


class FileListDocument(DocumentPart):
    """The list of a release's plaintext files, ``files.json``. The owner seals it, and the model server checks it.

    Paths are relative to the folder of the list. A manually written list need not be in canonical form.
    """

    version: int
    files: tuple[ListedFile, ...]
