"""The release index, ``release.json``: the public, signed list of a release's content.

The release id is the SHA-256 of the index. Therefore each index has exactly one form: canonical JSON, with the files in
ascending order.
"""

import secrets
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Final, Literal, NewType, Self

from pydantic import Field, StringConstraints, WithJsonSchema, field_validator, model_validator

from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.attested.release_statement import ModelSigner
from sealserve.canonical_document import CanonicalDocument, DocumentPart, ListedFile, Sha256
from sealserve.errors import ErrorCode
from sealserve.names import Name
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import is_safe_relative
from sealserve.sealing.protected_file import NODE_SIZE
from sealserve.terms import LARGEST_VERSION

INDEX_FILE: Final = "release.json"
SIGNATURE_FILE: Final = "release.json.sig"
FILE_LIST: Final = "files.json"
ENCLAVE_FOLDER: Final = "enclave"
MODELS_FOLDER: Final = "models"
ID_DIGITS: Final = 12  # number of digits of the release id in the folder's name

KeyName = NewType("KeyName", str)
"""The public id of a release key: 32 hexadecimal digits, independent of the key."""

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_TIME_PATTERN = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"
_Version = Annotated[int, Field(ge=0, le=LARGEST_VERSION)]


class IndexedFile(ListedFile):
    """A sealed file in the index."""

    path: Annotated[str, Field(description="Path in the release: relative, with slashes, without `..`.")]
    size: Annotated[int, Field(ge=NODE_SIZE, multiple_of=NODE_SIZE, description="Size of the sealed file in bytes.")]
    sha256: Annotated[Sha256, Field(description="SHA-256 of the sealed file, in hexadecimal.")]

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if not is_safe_relative(path) or path.split("/", maxsplit=1)[0] in {INDEX_FILE, SIGNATURE_FILE, ENCLAVE_FOLDER}:
            raise ValueError(f"{path!r} is not a permitted path of a sealed file")
        return path


class IndexedSigner(DocumentPart):
    """The signer of one version of a servable, from an OpenSSF Model Signing signature that the owner verified."""

    version: Annotated[_Version, Field(description="The version that came with a signature.")]
    signer: Annotated[ModelSigner, Field(description="The signer: `method`, `identity` and `issuer`.")]


def _never_empty(schema: dict[str, Any]) -> None:
    """Describe an optional array: if it is empty, the document does not contain it."""
    del schema["default"]
    schema["minItems"] = 1


class IndexedServable(DocumentPart):
    """A servable (a model that clients can request) in the index."""

    name: Annotated[Name, Field(description="Name that clients use in requests.")]
    versions: Annotated[
        tuple[_Version, ...],
        Field(min_length=1, description="All served versions, in ascending order, without repeats."),
    ]
    signers: Annotated[
        tuple[IndexedSigner, ...],
        Field(
            exclude_if=lambda signers: not signers,  # the index of unsigned models has no such key
            json_schema_extra=_never_empty,
            description="Signers of versions that came with a signature, in ascending order of versions.",
        ),
    ] = ()

    @field_validator("versions")
    @classmethod
    def _ascend(cls, versions: tuple[int, ...]) -> tuple[int, ...]:
        if any(left >= right for left, right in pairwise(versions)):
            raise ValueError("versions must be in ascending order, without duplicates")
        return versions

    @model_validator(mode="after")
    def _signers_fit(self) -> Self:
        signed = [item.version for item in self.signers]
        if any(left >= right for left, right in pairwise(signed)) or not set(signed) <= set(self.versions):
            raise ValueError("signers must be in ascending order of versions, without duplicates or other versions")
        return self

    def signer(self, version: int) -> ModelSigner | None:
        """Return the signer of a version, or None if it came without a signature."""
        return next((item.signer for item in self.signers if item.version == version), None)


class ReleaseIndex(CanonicalDocument):
    """The content of a release.json file."""

    what: ClassVar[str] = "release index"
    refusal: ClassVar[ErrorCode] = SealingCode.RELEASE_INVALID_INDEX

    version: Annotated[Literal[1], Field(description="Version of this schema.")] = 1
    name: Annotated[Name, Field(description="Name of the release: the name of its first servable.")]
    created: Annotated[
        str, Field(description="Creation time in UTC, in seconds.", json_schema_extra={"pattern": _TIME_PATTERN})
    ]
    simulated: Annotated[bool, Field(description="Whether the release is only for the simulated platform.")]
    file_format: Annotated[Literal["1.0", "2.0"], Field(description="Gramine format of the sealed files: 1.0 or 2.0.")]
    key_id: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9a-f]{32}$"),
        Field(description="Id of the release key in the owner's keystore. It is independent of the key itself."),
    ]
    secret_form: Annotated[
        SecretForm | None,
        WithJsonSchema({"type": "string", "enum": [form.value for form in SecretForm]}),  # never null
        Field(
            exclude_if=lambda form: form is None,  # the index of a release without a chosen form has no such key
            description="Form in which enclaves receive the key, if it was chosen when the release was built.",
        ),
    ] = None
    servables: Annotated[
        tuple[IndexedServable, ...], Field(min_length=1, description="The servables, in ascending order of names.")
    ]
    files: Annotated[
        tuple[IndexedFile, ...],
        Field(min_length=1, description="Every sealed file, including `files.json`, in ascending order of paths."),
    ]

    @property
    def created_at(self) -> datetime:
        """The value of ``created`` as a time in UTC."""
        return datetime.strptime(self.created, _TIME).replace(tzinfo=UTC)

    def signer(self, name: str, version: int) -> ModelSigner | None:
        """Return the signer of a version of a servable, or None if it came without a signature."""
        found = (item.signer(version) for item in self.servables if item.name == name)
        return next(found, None)

    @field_validator("created")
    @classmethod
    def _is_a_time(cls, created: str) -> str:
        if datetime.strptime(created, _TIME).replace(tzinfo=UTC).strftime(_TIME) != created:
            raise ValueError("expected YYYY-MM-DDTHH:MM:SSZ")
        return created

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        names = [servable.name for servable in self.servables]
        if any(left >= right for left, right in pairwise(names)):
            raise ValueError("servables must be in ascending order, without duplicates")
        paths = [file.path for file in self.files]
        if any(left >= right for left, right in pairwise(paths)):
            raise ValueError("files must be in ascending order, without duplicates")
        known = set(paths)
        for path in paths:
            parts = path.split("/")
            if any("/".join(parts[:end]) in known for end in range(1, len(parts))):
                raise ValueError(f"{path!r} is below another file")
        if FILE_LIST not in known:
            raise ValueError(f"{FILE_LIST!r} is missing")
        return self


def parse_index(content: bytes, *, name: str = INDEX_FILE) -> ReleaseIndex:
    """Parse a release index.

    Args:
        content: The bytes of ``release.json``. Only the canonical form is accepted, so duplicate keys are rejected.
        name: The file's name in errors.

    Raises:
        VerificationError: `release.invalid-index` if the content is not a release index in canonical form.
    """
    return ReleaseIndex.parse(content, name=name)


def format_time(moment: datetime) -> str:
    """Return a time in the format of an index. Fractions of a second are dropped.

    Raises:
        ValueError: ``moment`` lacks a time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("the time requires a time zone")
    return moment.astimezone(UTC).strftime(_TIME)


def new_key_name() -> KeyName:
    """Return a new random id for a release key."""
    return KeyName(secrets.token_hex(16))


def folder_name(name: str, release_id: str) -> str:
    """Return the name of a release's folder: the release's name and the first 12 digits of its id."""
    return f"{name}-{release_id[:ID_DIGITS]}"
