"""The layout of Gramine encrypted files ("protected files"), formats 1.0 and 2.0.

A file consists of 4096-byte nodes. Node 0 holds the metadata in two parts. The plain part is readable without a key.
The encrypted part contains the embedded path, the size, and the first 3072 bytes of the content. Its key is derived
from the wrap key. The rest of the content is divided into data nodes, each encrypted with its own key.

An MHT (Merkle hash tree) node contains the keys and MACs (tags) of up to 96 data nodes and of up to 32 further MHT
nodes. It is encrypted like a data node. The key and MAC of the root MHT node are in the metadata.

An MHT node and its data nodes are adjacent in the file. This code calls them a *group*, which is the unit of work.

Source: gramineproject/gramine at ff71d7af (1.9), common/src/protected_files/protected_files_format.h and
protected_files.c (get_node_numbers, ipf_read_mht_node, ipf_generate_metadata_key, ipf_init_existing_file).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from sealserve.sealing.codes import SealingCode
from sealserve.sealing.format_version import FormatVersion
from sealserve.secret import SecretBytes

SPEC_VERSION: Final = "Gramine 1.9 (ff71d7af): formats 1.0 and 2.0"

NODE_SIZE: Final = 4096
KEY_SIZE: Final = 16
MAC_SIZE: Final = 16
NONCE_SIZE: Final = 32
ENTRY_SIZE: Final = KEY_SIZE + MAC_SIZE
DATA_PER_MHT: Final = 96
CHILDREN_PER_MHT: Final = 32
HEAD_SIZE: Final = 3072  # bytes of content in node 0
GROUP_PLAIN_SIZE: Final = DATA_PER_MHT * NODE_SIZE
DATA_ENTRIES_SIZE: Final = DATA_PER_MHT * ENTRY_SIZE
CHILD_ENTRIES_SIZE: Final = CHILDREN_PER_MHT * ENTRY_SIZE

_FILE_ID: Final = 0x46505F5346415247  # "GRAFS_PF"
_LABEL: Final = b"SGX-PROTECTED-FS-METADATA-KEY"
_KEY_BITS: Final = 128


class Field(NamedTuple):
    """One field of a layout: its name, its offset and its size in bytes."""

    name: str
    offset: int
    size: int


Layout = tuple[Field, ...]

HEADER_1_0: Final[Layout] = (
    Field("file_id", 0, 8),  # u64 LE
    Field("major_version", 8, 1),
    Field("minor_version", 9, 1),
    Field("nonce", 10, NONCE_SIZE),
    Field("metadata_mac", 42, MAC_SIZE),
    Field("metadata", 58, 3884),  # ciphertext of METADATA
    Field("padding", 3942, 154),
)
HEADER_2_0: Final[Layout] = (
    *HEADER_1_0[:5],
    Field("feature_flags", 58, 1),  # bit 0: Gramine was interrupted during a write
    Field("metadata", 59, 3884),
    Field("padding", 3943, 153),
)
METADATA: Final[Layout] = (
    Field("path", 0, 772),  # NUL-padded, so 771 bytes at most
    Field("file_size", 772, 8),  # u64 LE
    Field("root_entry", 780, ENTRY_SIZE),  # key, then MAC, of MHT node 0
    Field("head", 812, HEAD_SIZE),
)
KEY_DERIVATION: Final[Layout] = (
    Field("counter", 0, 4),  # u32 LE, 1
    Field("label", 4, 64),  # NUL-padded
    Field("nonce", 68, NONCE_SIZE),
    Field("output_bits", 100, 4),  # u32 LE, 128
)


def _size(layout: Layout) -> int:
    return layout[-1].offset + layout[-1].size


METADATA_SIZE: Final = _size(METADATA)
MAX_PATH_SIZE: Final = METADATA[0].size - 1


def unpack(layout: Layout, raw: bytes) -> dict[str, bytes]:
    """Return the fields of ``raw``, which must have exactly the layout's size."""
    if len(raw) != _size(layout):
        raise ValueError(f"expected {_size(layout)} bytes, got {len(raw)}")
    return {name: raw[offset : offset + size] for name, offset, size in layout}


def pack(layout: Layout, **fields: bytes) -> bytes:
    """Return the bytes of ``layout`` with ``fields`` at their offsets, each NUL-padded. Absent fields are zero."""
    raw = bytearray(_size(layout))
    for name, offset, size in layout:
        value = fields.pop(name, b"")
        if len(value) > size:
            raise ValueError(f"{name} has {len(value)} bytes, but at most {size} are possible")
        raw[offset : offset + len(value)] = value
    if fields:
        raise ValueError(f"unknown fields: {sorted(fields)}")
    return bytes(raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The plain part of node 0, with the metadata still encrypted. The header itself is not authenticated.

    Attributes:
        version: The format version.
        minor_version: Written as 0. Gramine and sealserve ignore it when reading.
        feature_flags: Format 2.0 only. Bit 0 means that Gramine was interrupted while it wrote the file.
        nonce: The 32 bytes from which the metadata key is derived.
        metadata_mac: The MAC of the metadata.
        metadata: The encrypted metadata, 3884 bytes.
    """

    version: FormatVersion
    minor_version: int = 0
    feature_flags: int = 0
    nonce: bytes
    metadata_mac: bytes
    metadata: bytes = field(repr=False)

    @classmethod
    def parse(cls, node: bytes, *, name: str) -> Self:
        """Parse the header in ``node``, the first 4096 bytes of a file. ``name`` is the file's name in errors.

        Raises:
            VerificationError: `sealed-file.bad-magic` if it does not start with the file id.
            VerificationError: `sealed-file.unknown-version` if the major version is not supported.
        """
        fields = unpack(HEADER_1_0, node)
        if int.from_bytes(fields["file_id"], "little") != _FILE_ID:
            raise SealingCode.SEALED_FILE_BAD_MAGIC.error(
                f"{name} is not a sealed file: expected the magic bytes {_FILE_ID.to_bytes(8, 'little').hex()} "
                f"(GRAFS_PF), got {fields['file_id'].hex()}.",
                hint="Check the path.",
            )
        major = fields["major_version"][0]
        version = next((version for version in FormatVersion if version.major == major), None)
        if version is None:
            raise SealingCode.SEALED_FILE_UNKNOWN_VERSION.error(
                f"{name} has an unsupported format version: expected 1.0 or 2.0, got "
                f"{major}.{fields['minor_version'][0]}.",
                hint="Check whether a later version of Gramine wrote the file, or copy it again if it is damaged.",
            )
        fields = unpack(_header_layout(version), node)
        return cls(
            version=version,
            minor_version=fields["minor_version"][0],
            feature_flags=fields.get("feature_flags", b"\0")[0],
            nonce=fields["nonce"],
            metadata_mac=fields["metadata_mac"],
            metadata=fields["metadata"],
        )

    def to_bytes(self) -> bytes:
        """Return node 0, 4096 bytes."""
        flags = {"feature_flags": bytes([self.feature_flags])} if self.version is FormatVersion.V2_0 else {}
        return pack(
            _header_layout(self.version),
            file_id=_FILE_ID.to_bytes(8, "little"),
            major_version=bytes([self.version.major]),
            minor_version=bytes([self.minor_version]),
            nonce=self.nonce,
            metadata_mac=self.metadata_mac,
            metadata=self.metadata,
            **flags,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The encrypted part of node 0, decrypted.

    Attributes:
        path: The embedded path, without padding.
        file_size: Size of the content in bytes.
        root_entry: The key and MAC of MHT node 0. Zeros if the content fits into node 0.
        head: The first 3072 bytes of the content, zero-padded.
    """

    path: bytes
    file_size: int
    root_entry: bytes = field(repr=False)
    head: bytes = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the decrypted metadata, 3884 bytes."""
        fields = unpack(METADATA, raw)
        return cls(
            path=fields["path"].split(b"\0", 1)[0],
            file_size=int.from_bytes(fields["file_size"], "little"),
            root_entry=fields["root_entry"],
            head=fields["head"],
        )

    def to_bytes(self) -> bytes:
        """Return the metadata as 3884 bytes."""
        size = struct.pack("<Q", self.file_size)
        return pack(METADATA, path=self.path, file_size=size, root_entry=self.root_entry, head=self.head)


def metadata_key(wrap_key: SecretBytes, nonce: bytes) -> bytes:
    """Return the key of the metadata: AES-128-CMAC with the wrap key, a counter-mode KDF from NIST SP 800-108.

    Raises:
        InputError: `sealed-file.key-length` if the wrap key does not have 16 bytes.
    """
    if len(wrap_key) != KEY_SIZE:
        raise SealingCode.SEALED_FILE_KEY_LENGTH.error(
            f"The wrap key has an invalid length: expected {KEY_SIZE} bytes, got {len(wrap_key)}.",
            hint="Use a key file with 16 raw bytes, not hexadecimal or base64 text.",
        )
    cmac = CMAC(AES(wrap_key.reveal()))
    counter, bits = struct.pack("<I", 1), struct.pack("<I", _KEY_BITS)
    cmac.update(pack(KEY_DERIVATION, counter=counter, label=_LABEL, nonce=nonce, output_bits=bits))
    return cmac.finalize()


# The positions of nodes. Data nodes (d), MHT nodes (m) and positions in the file are numbered from 0.


def data_nodes(file_size: int) -> int:
    """Return the number of data nodes for a content of ``file_size`` bytes."""
    return -(-max(0, file_size - HEAD_SIZE) // NODE_SIZE)


def mht_nodes(file_size: int) -> int:
    """Return the number of MHT nodes for a content of ``file_size`` bytes: one for each started 96 data nodes."""
    return -(-data_nodes(file_size) // DATA_PER_MHT)


def sealed_size(file_size: int) -> int:
    """Return the size of the encrypted file in bytes, for a content of ``file_size`` bytes."""
    return (1 + mht_nodes(file_size) + data_nodes(file_size)) * NODE_SIZE


def data_node_position(index: int) -> int:
    """Return the position of data node ``index`` in the file, counted in nodes."""
    return 2 + index + index // DATA_PER_MHT


def mht_node_position(index: int) -> int:
    """Return the position of MHT node ``index`` in the file, counted in nodes."""
    return 1 + (1 + DATA_PER_MHT) * index


def parent(index: int) -> tuple[int, int]:
    """Return the parent of MHT node ``index`` and its slot number there. ``index`` must not be the root, 0."""
    return divmod(index - 1, CHILDREN_PER_MHT)


def child_count(index: int, total: int) -> int:
    """Return the number of children of MHT node ``index`` in a tree of ``total`` MHT nodes."""
    return max(0, min(CHILDREN_PER_MHT, total - (CHILDREN_PER_MHT * index + 1)))


def describe_node(position: int) -> str:
    """Return a description of the node at ``position`` for messages."""
    if position == 0:
        return "node 0 (metadata)"
    group, place = divmod(position - 1, 1 + DATA_PER_MHT)
    kind = f"MHT node {group}" if place == 0 else f"data node {group * DATA_PER_MHT + place - 1}"
    return f"node {position} ({kind})"


@dataclass(frozen=True, slots=True)
class Group:
    """MHT node ``index`` and its data nodes. They are adjacent in the file, and their content is contiguous.

    Attributes:
        index: The number of the MHT node.
        plain_offset: The offset of the group's content in the plaintext, in bytes.
        plain_size: The length of the group's content in bytes, from 1 to 393216.
    """

    index: int
    plain_offset: int
    plain_size: int

    @property
    def data_nodes(self) -> int:
        """The number of data nodes, from 1 to 96."""
        return -(-self.plain_size // NODE_SIZE)

    @property
    def offset(self) -> int:
        """The offset of the group in the encrypted file, in bytes. The MHT node comes first."""
        return mht_node_position(self.index) * NODE_SIZE


def group(index: int, file_size: int) -> Group:
    """Return group ``index`` of a content of ``file_size`` bytes."""
    start = HEAD_SIZE + index * GROUP_PLAIN_SIZE
    return Group(index, start, min(GROUP_PLAIN_SIZE, file_size - start))


def groups(file_size: int) -> Iterator[Group]:
    """Yield the groups of a content of ``file_size`` bytes in the order of the file."""
    for index in range(mht_nodes(file_size)):
        yield group(index, file_size)


def _header_layout(version: FormatVersion) -> Layout:
    """Return the layout of node 0."""
    return HEADER_1_0 if version is FormatVersion.V1_0 else HEADER_2_0
