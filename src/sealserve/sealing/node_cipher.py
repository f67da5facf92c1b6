"""The cipher for nodes: it converts runs of 4096-byte nodes to encrypted nodes with keys and MACs, and back.

Two implementations exist: native code, if ``scripts/native.py`` could compile it, and Python, which is always
available. All other code for encrypted files handles only positions and entries, never the bytes of nodes.
"""

import importlib
import os
from types import ModuleType
from typing import ClassVar, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealserve.sealing.protected_file import ENTRY_SIZE, KEY_SIZE, MAC_SIZE, NODE_SIZE

SPARE: Final = MAC_SIZE
ZERO_IV: Final = bytes(12)  # each key encrypts exactly one node, so the IV never repeats with the same key


class NodeMacError(Exception):
    """A node's MAC does not match. Internal: the caller raises its own error with the file's name.

    Args:
        index: The number of the first such node in the run.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class NodeCipher(Protocol):
    """AES-128-GCM over runs of nodes: 12-byte zero IV, no additional data, a 16-byte MAC, and one key per node.

    In both methods, ``sealed`` is `SPARE` bytes longer than the run. An implementation may overwrite these spare bytes.

    Attributes:
        name: The name of the implementation: ``native`` or ``python``.
        scales: Whether several threads are faster than one thread.
    """

    name: ClassVar[str]
    scales: ClassVar[bool]

    def encrypt(self, plain: memoryview, sealed: memoryview, entries: memoryview) -> None:
        """Encrypt the run ``plain`` (n * 4096 bytes) into ``sealed``, each node with a new random key.

        Args:
            plain: The nodes. They are not changed.
            sealed: Receives the encrypted nodes, n * 4096 bytes, followed by `SPARE` bytes.
            entries: Receives the key and MAC of each node, n * 32 bytes.
        """
        ...

    def decrypt(self, sealed: memoryview, entries: memoryview, plain: memoryview) -> None:
        """Decrypt the run ``sealed`` into ``plain``, and verify the MAC of each node.

        Args:
            sealed: The encrypted nodes, n * 4096 bytes, followed by `SPARE` bytes. May be overwritten.
            entries: The key and MAC of each node, n * 32 bytes.
            plain: Receives the nodes, n * 4096 bytes. Its content is undefined after an error.

        Raises:
            NodeMacError: A MAC does not match.
        """
        ...


class AesGcmNodeCipher:
    """`NodeCipher` with the ``cryptography`` package, without copying nodes.

    OpenSSL's one-shot call places the MAC directly after the ciphertext, where the next node begins. Therefore
    encryption proceeds upwards, and the next node overwrites the MAC. Decryption proceeds downwards and overwrites
    nodes that are already decrypted.
    """

    name: ClassVar[str] = "python"
    scales: ClassVar[bool] = False  # the calls are too short for another thread to run while the GIL is released

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
                failed = index  # the loop continues, so that the error reports the first failed node of the run
        if failed is not None:
            raise NodeMacError(failed)


class NativeNodeCipher:
    """`NodeCipher` with ``_node_cipher.c``: one call for a whole run. Other threads can run during the call.

    Args:
        module: The compiled module.
    """

    name: ClassVar[str] = "native"
    scales: ClassVar[bool] = True

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    @property
    def openssl_version(self) -> str:
        """The version of OpenSSL that the module uses."""
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
    """Return the native implementation, or `None` if it is not compiled or its OpenSSL library is not available."""
    try:
        return NativeNodeCipher(importlib.import_module("sealserve.sealing._node_cipher"))
    except ImportError:
        return None


IN_PYTHON: Final[NodeCipher] = AesGcmNodeCipher()
DEFAULT: NodeCipher = native() or IN_PYTHON
