"""The client bundle: one file with everything that a user needs to call a service.

The file is one JSON document, so reading it cannot write or open other files. ``docs/reference/client-bundle.md``
describes each field. With two-way TLS, the bundle contains the user's private key.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, Self

from sealserve.client.codes import ClientCode
from sealserve.client.credentials import Credentials, parse_endpoint, printable
from sealserve.client.predict import Signature, TensorSpec
from sealserve.errors import InputError
from sealserve.pki.certificate import parse_chain
from sealserve.regular_file import LARGEST_TEXT, read_regular
from sealserve.secret import SecretBytes

FORMAT: Final = "sealserve-client-bundle"
VERSION: Final = 1
_FIELDS: Final = frozenset(
    {"format", "version", "user", "grpc", "rest", "server_name", "ca", "certificate", "private_key", "models"}
)  # fmt: skip
_LONGEST_NAME: Final = 253
_LARGEST_VERSION: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledModel:
    """A model in a client bundle, in the state of the time when the bundle was created.

    Attributes:
        name: Name of the model.
        version: Version of the model.
        labels: Labels of this version.
        signatures: Signatures by name; empty if they were unknown.
    """

    name: str
    version: int
    labels: tuple[str, ...] = ()
    signatures: Mapping[str, Signature] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the model as a JSON object for the bundle's file."""
        signatures = {name: asdict(signature) for name, signature in self.signatures.items()}
        for signature in signatures.values():
            signature["optional"] = sorted(signature["optional"])
        return {"name": self.name, "version": self.version, "labels": list(self.labels), "signatures": signatures}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientBundle:
    """Everything that a user needs to call a service.

    Attributes:
        user: The user's name.
        grpc: Address of the gRPC API, ``host:port``.
        rest: Address of the REST API, ``host:port``, or None if the service does not offer REST.
        server_name: The name in the service's certificate.
        ca: Exactly one certificate: of the authority that signs the service's certificates, PEM.
        certificate: The user's certificate chain for two-way TLS, PEM, or None.
        key: The user's private key for two-way TLS, PEM, or None.
        models: The served models.

    Raises:
        InputError: `client.bundle-invalid`: A name or an address is invalid, or ``ca`` contains several certificates.
        SealserveError: As `Credentials`.
    """

    user: str
    grpc: str
    rest: str | None = None
    server_name: str
    ca: bytes = field(repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: SecretBytes | None = None
    models: tuple[BundledModel, ...] = ()

    def __post_init__(self) -> None:
        for text in (self.user, *(name for model in self.models for name in (model.name, *model.labels))):
            if not 0 < len(text) <= _LONGEST_NAME or not text.isprintable():
                _reject(f"{printable(repr(text), 80)} is not a valid name")
        for address in (self.grpc, self.rest):
            if address is not None:
                try:
                    parse_endpoint(address)
                except InputError as error:
                    _reject(f"{printable(repr(address), 80)} is not an address of the form host:port", error)
        Credentials(server_name=self.server_name, ca=self.ca, certificate=self.certificate, key=self.key)
        if (count := len(parse_chain(self.ca))) != 1:  # users compare the fingerprint of a single certificate
            _reject(f'its "ca" is wrong: expected one certificate, got {count}')

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the bundle in the file ``path``.

        Raises:
            InputFileError: The file does not exist, is not a regular file, or is larger than 4 MiB.
            SealserveError: As `parse`.
        """
        return cls.parse(read_regular(path), source=str(path))

    @classmethod
    def parse(cls, content: bytes, *, source: str = "the bundle") -> Self:
        """Parse the content of a bundle's file.

        Args:
            content: The file's bytes.
            source: Name of the bundle in error messages. An error never contains a part of the key.

        Raises:
            InputError: `client.bundle-invalid`: It is not a bundle, or a field is missing, unknown, repeated or wrong.
            InputError: `client.bundle-version`: A newer version of sealserve wrote the bundle.
            SealserveError: The certificates or the key cannot be used, or do not belong together.
        """
        document = _document(content, source)
        version = document.get("version")
        if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
            raise ClientCode.BUNDLE_VERSION.error(
                f"{source} has a newer format of client bundles: expected version {VERSION}, got {version}.",
                hint="Upgrade sealserve.",
            )
        if version != VERSION or isinstance(version, bool):
            _reject(f'its "version" is not {VERSION}', source=source)
        if unknown := document.keys() - _FIELDS:
            _reject(f"it has the unknown field {printable(repr(min(unknown)), 80)}", source=source)
        try:
            key = _text(document, "private_key", optional=True)
            certificate = _text(document, "certificate", optional=True)
            return cls(
                user=_required(document, "user"),
                grpc=_required(document, "grpc"),
                rest=_text(document, "rest", optional=True),
                server_name=_required(document, "server_name"),
                ca=_required(document, "ca").encode(),
                certificate=None if certificate is None else certificate.encode(),
                key=None if key is None else SecretBytes(key.encode()),
                models=tuple(_model(item) for item in _list(document.get("models", []))),
            )
        except ValueError as error:
            reason = "a text is not UTF-8" if isinstance(error, UnicodeEncodeError) else str(error)
            _reject(reason, error, source=source)

    def render(self) -> SecretBytes:
        """Return the content of the bundle's file."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "user": self.user,
            "grpc": self.grpc,
            "rest": self.rest,
            "server_name": self.server_name,
            "ca": self.ca.decode(),
            "certificate": None if self.certificate is None else self.certificate.decode(),
            "private_key": None if self.key is None else self.key.reveal().decode(),
            "models": [model.document() for model in self.models],
        }
        return SecretBytes(json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")

    @property
    def model(self) -> str | None:
        """Name of the model, or None unless the bundle contains exactly one model."""
        names = {model.name for model in self.models}
        return names.pop() if len(names) == 1 else None


def _document(content: bytes, source: str) -> dict[str, Any]:
    if len(content) > LARGEST_TEXT:
        _reject(f"it has more than {LARGEST_TEXT} bytes", source=source)
    fault = "it is not JSON in UTF-8"
    try:
        document = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # not chained, because a JSON error contains the document with the key
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        if document is not None:
            fault = f'its "format" is not "{FORMAT}"'
        _reject(f"{fault}, or a field is repeated", source=source)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)  # NaN and Infinity are not JSON


def _text(document: Mapping[str, Any], name: str, *, optional: bool = False) -> str | None:
    value = document.get(name)
    if (value is None and optional) or isinstance(value, str):
        return value
    raise ValueError(f"its {name} is not a text")


def _required(document: Mapping[str, Any], name: str) -> str:
    return _text(document, name) or ""


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("models, labels and shapes must be lists")  # noqa: TRY004  # as for other faults
    return value


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a model, a signature or a tensor is not an object")  # noqa: TRY004
    return value


def _model(value: object) -> BundledModel:
    model = _object(value)
    version = model.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= _LARGEST_VERSION:
        raise ValueError("the version of a model is not an integer from 0 to 2^63-1")
    labels = tuple(_list(model.get("labels", [])))
    if not all(isinstance(label, str) for label in labels):
        raise ValueError("a label of a model is not a text")
    signatures = _object(model.get("signatures", {}))
    return BundledModel(
        name=_required(model, "name"),
        version=version,
        labels=labels,
        signatures={name: _signature(_object(item)) for name, item in signatures.items()},
    )


def _signature(value: dict[str, Any]) -> Signature:
    optional = _list(value.get("optional", []))
    if not all(isinstance(name, str) for name in optional):
        raise ValueError("an optional input is not a text")
    return Signature(
        method=_required(value, "method"),
        inputs={name: _tensor(_object(item)) for name, item in _object(value.get("inputs", {})).items()},
        outputs={name: _tensor(_object(item)) for name, item in _object(value.get("outputs", {})).items()},
        optional=frozenset(optional),
    )


def _tensor(value: dict[str, Any]) -> TensorSpec:
    shape = value.get("shape")
    if shape is None:
        return TensorSpec(_required(value, "dtype"), None)
    sizes = _list(shape)
    if not all(size is None or (type(size) is int and 0 <= size <= _LARGEST_VERSION) for size in sizes):
        raise ValueError("the shape of a tensor contains values that are not sizes")
    return TensorSpec(_required(value, "dtype"), tuple(sizes))


def _reject(reason: str, cause: Exception | None = None, *, source: str = "the bundle") -> NoReturn:
    raise ClientCode.BUNDLE_INVALID.error(
        f"{source} is not a valid client bundle: {reason}.",
        hint="Ask the owner of the service for a new bundle. The owner creates it with `sealserve client bundle`.",
    ) from cause
