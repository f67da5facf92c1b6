"""The cipher of nodes: runs of 4096-byte nodes in, runs of encrypted nodes with their keys and MACs out, and back.

There are two implementations: in native code, where ``scripts/native.py`` could compile it, and in Python, which is
always there. Everything else about encrypted files handles positions and entries, never node bytes.
"""

import importlib
import os
from types import ModuleType
from typing import ClassVar, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.sealing.protected_file import ENTRY_SIZE, KEY_SIZE, MAC_SIZE, NODE_SIZE

SPARE: Final = MAC_SIZE
ZERO_IV: Final = bytes(12)  # every key encrypts one node once, so the IV never repeats under a key


class NodeMacError(Exception):
    """A node's MAC does not match. Internal: the caller knows the file, and raises its own error.

    Args:
        index: The first such node of the run.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class NodeCipher(Protocol):
    """AES-128-GCM over runs of nodes: 12-byte zero IV, no additional data, a 16-byte MAC, a key for each node.

    In both methods ``sealed`` is `SPARE` bytes longer than the run; an implementation may overwrite these spare bytes.

    Attributes:
        name: What to call it: ``native`` or ``python``.
        scales: Whether several threads are faster than one.
    """

    name: ClassVar[str]
    scales: ClassVar[bool]

    def encrypt(self, plain: memoryview, sealed: memoryview, entries: memoryview) -> None:
        """Encrypt the run ``plain`` (n * 4096 bytes) into ``sealed``, each node under a fresh random key.

        Args:
            plain: The nodes; unchanged.
            sealed: Receives the encrypted nodes, n * 4096 bytes, and has `SPARE` bytes after them.
            entries: Receives key and MAC of each node, n * 32 bytes.
        """
        ...

    def decrypt(self, sealed: memoryview, entries: memoryview, plain: memoryview) -> None:
        """Decrypt the run ``sealed`` into ``plain``, and check the MAC of each node.

        Args:
            sealed: The encrypted nodes, n * 4096 bytes, and `SPARE` bytes after them. May be overwritten.
            entries: Key and MAC of each node, n * 32 bytes.
            plain: Receives the nodes, n * 4096 bytes; without meaning if this fails.

        Raises:
            NodeMacError: A MAC does not match.
        """
        ...


class AesGcmNodeCipher:
    """`NodeCipher` by the ``cryptography`` package, without copies of nodes.

    OpenSSL's one-shot call has the MAC right behind the ciphertext. There the next node begins: so encryption goes
    upwards and the next node overwrites the MAC, and decryption goes downwards over nodes that are done.
    """

    name: ClassVar[str] = "python"
    scales: ClassVar[bool] = False  # it holds the GIL between calls that are too short to let another thread run

    def encrypt(self, plain: memoryview, sealed: memoryview, entries: memoryview) -> None:
        """Encrypt a run, see `NodeCipher.encrypt`."""
        keys = os.urandom(len(plain) // NODE_SIZE * KEY_SIZE)
        for index in range(len(plain) // NODE_SIZE):
            start, entry = index * NODE_SIZE, index * ENTRY_SIZE
            end = start + NODE_SIZE
            key = keys[index * KEY_SIZE : (index + 1) * KEY_SIZE]
            AESGCM(key).encrypt_into(ZERO_IV, plain[start:end], None, sealed[start : end + MAC_SIZE])
            entries[entry : entry + KEY_SIZE] = key
            entries[entry + KEY_SIZE : entry + ENTRY_SIZE] = sealed[end : end + MAC_SIZE]

    def decrypt(self, sealed: memoryview, entries: memoryview, plain: memoryview) -> None:
        """Decrypt a run, see `NodeCipher.decrypt`."""
        failed = None
        for index in range(len(plain) // NODE_SIZE - 1, -1, -1):
            start, entry = index * NODE_SIZE, index * ENTRY_SIZE
            end = start + NODE_SIZE
            sealed[end : end + MAC_SIZE] = entries[entry + KEY_SIZE : entry + ENTRY_SIZE]
            cipher = AESGCM(entries[entry : entry + KEY_SIZE])
            try:
                cipher.decrypt_into(ZERO_IV, sealed[start : end + MAC_SIZE], None, plain[start:end])
            except InvalidTag:
                failed = index  # the loop goes on: the error names the first node of the run
        if failed is not None:
            raise NodeMacError(failed)


class NativeNodeCipher:
    """`NodeCipher` by ``_node_cipher.c``: one call for a whole run, during which other threads go on.

    Args:
        module: The compiled module.
    """

    name: ClassVar[str] = "native"
    scales: ClassVar[bool] = True

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    @property
    def openssl_version(self) -> str:
        """The OpenSSL that the module runs on."""
        return str(self._module.OPENSSL_VERSION)

    def encrypt(self, plain: memoryview, sealed: memoryview, entries: memoryview) -> None:
        """Encrypt a run, see `NodeCipher.encrypt`."""
        self._module.encrypt(plain, sealed, entries)

    def decrypt(self, sealed: memoryview, entries: memoryview, plain: memoryview) -> None:
        """Decrypt a run, see `NodeCipher.decrypt`."""
        failed = self._module.decrypt(sealed, entries, plain)
        if failed >= 0:
            raise NodeMacError(failed)


def native() -> NativeNodeCipher | None:
    """Return the native implementation, or None where it was not compiled or its OpenSSL is not here."""
    try:
        return NativeNodeCipher(importlib.import_module("sealserve.sealing._node_cipher"))
    except ImportError:
        return None


IN_PYTHON: Final[NodeCipher] = AesGcmNodeCipher()
DEFAULT: NodeCipher = native() or IN_PYTHON
