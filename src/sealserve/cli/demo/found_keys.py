"""A search for private keys in files and sealed files, and the comparison with the keys of TLS connections.

A private key that fits the certificate of a connection allows an active attacker to end the connection. Therefore the
demo searches everything that the owner and the host have: their folders, the owner's keystore, and the sealed files,
which the owner can open with the release key.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from sealserve.broker import stored_key
from sealserve.broker.keystore import KeyId
from sealserve.cli.demo.exposure import distinct, files_under
from sealserve.owner import issuing
from sealserve.owner.owner import Owner
from sealserve.pki.issuing import load_key
from sealserve.sealing.codec import unseal_bytes
from sealserve.sealing.release_index import INDEX_FILE, parse_index
from sealserve.workspace import Workspace

_PEM: Final = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.{1,20000}?-----END \1-----", re.DOTALL)
_MARK: Final = b"PRIVATE KEY-----"
# The beginning of an ECPrivateKey with 32 bytes (RFC 5915 section 3), also inside of PKCS #8: version 1, OCTET STRING.
_P256: Final = b"\x02\x01\x01\x04\x20"
_P256_SIZE: Final = 32
_LARGEST_SEALED: Final = 1 << 28
"""Larger sealed files contain a model's weights. They are not held in memory."""
_SPKI: Final = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundKey:
    """A private key.

    Args:
        place: Where it was found.
        key: The key.
        public: Its public key as a SubjectPublicKeyInfo, DER.
    """

    place: str
    key: PrivateKeyTypes = field(repr=False)
    public: bytes = field(repr=False)

    @classmethod
    def of(cls, key: PrivateKeyTypes, place: str) -> "FoundKey":
        """Return a key with its place."""
        return cls(place=place, key=key, public=key.public_key().public_bytes(*_SPKI))

    def pem(self) -> bytes:
        """Return the key, PEM."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySearch:
    """The result of a search.

    Args:
        files: Number of files that were searched.
        opened: Number of sealed files that were opened with the release key and searched.
        keys: The private keys, without repetitions.
    """

    files: int
    opened: int
    keys: tuple[FoundKey, ...]

    def fitting(self, certificates: Iterable[bytes]) -> list[FoundKey]:
        """Return the private keys that belong to one of the certificates (DER)."""
        served = {x509.load_der_x509_certificate(der).public_key().public_bytes(*_SPKI) for der in certificates}
        return [key for key in self.keys if key.public in served]


def search(workspace: Workspace, releases: Sequence[Path]) -> KeySearch:
    """Search everything that the owner and the host have.

    Args:
        workspace: The workspace with both folders.
        releases: The folders of releases whose sealed files are opened.
    """
    files = list(distinct(files_under([workspace.owner.root, workspace.host.root])))
    found = [key for path in files for key in keys_in(path.read_bytes(), str(path.relative_to(workspace.root)))]
    found += _issuing_key(workspace)
    opened = 0
    for release in releases:
        for path, content in _opened(workspace, release):
            opened += 1
            found += keys_in(content, f"the sealed file {path}")
    unique = {key.public: key for key in reversed(found)}
    return KeySearch(files=len(files), opened=opened, keys=tuple(unique.values()))


def keys_in(content: bytes, place: str) -> Iterator[FoundKey]:
    """Yield the private keys in a file: all kinds as PEM, and P-256 keys as DER at any offset."""
    # The plain search is much faster than the expression.
    for block in _PEM.finditer(content) if _MARK in content else ():
        pem = block.group().replace(b"\\n", b"\n")  # text formats, such as ssl.cfg, escape the ends of lines
        try:
            yield FoundKey.of(serialization.load_pem_private_key(pem, password=None), place)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue  # encrypted, or not a key
    start = content.find(_P256)
    while start >= 0:
        begin = start + len(_P256)
        number = int.from_bytes(content[begin : begin + _P256_SIZE])
        with contextlib.suppress(ValueError):  # the number may be outside of the range of keys
            yield FoundKey.of(ec.derive_private_key(number, ec.SECP256R1()), place)
        start = content.find(_P256, begin)


def _issuing_key(workspace: Workspace) -> list[FoundKey]:
    """Return the private key of the issuing CA from the owner's keystore."""
    if not issuing.exists(workspace):
        return []
    key_id = KeyId(issuing.read_certificate(workspace).key_id)
    with Owner.open(workspace).vault() as vault, vault.database.read() as connection:
        stored = stored_key.find_issuing(connection, key_id)
        with vault.keystore.decrypt(stored) as number:
            return [FoundKey.of(load_key(number), "the owner's keystore")]


def _opened(workspace: Workspace, release: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and plaintext of the sealed files of a release."""
    index = parse_index((release / INDEX_FILE).read_bytes())
    with Owner.open(workspace).vault() as vault, vault.database.read() as connection:
        key = vault.keystore.load(connection, KeyId(index.key_id))
    with key:
        for file in index.files:
            if file.size > _LARGEST_SEALED:
                continue
            with unseal_bytes(release / file.path, key=key, embedded_path=file.path) as plain:
                yield file.path, plain.reveal()
