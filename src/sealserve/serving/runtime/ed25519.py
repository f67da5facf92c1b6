"""Ed25519 signatures by BoringSSL, which TensorFlow's library contains.

In a busy server, a receipt takes about 30 us less than with the package ``cryptography`` (docs/decisions/0153). The
enclave already trusts the library. Ed25519 is deterministic, so both create the same signatures.

TensorFlow exports the function, but does not document it. So `find_signer` compares a signature before it uses the
function, and else returns the signer of ``cryptography``.

Source: google/boringssl, ``include/openssl/curve25519.h`` (``ED25519_sign``); RFC 8032 section 5.1.
"""

import ctypes
import logging
from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealserve.serving.runtime.libtensorflow import library

logger = logging.getLogger(__name__)

_FUNCTION: Final = "ED25519_sign"
_SIGNATURE_SIZE: Final = 64
_KEY_SIZE: Final = 64
"""Bytes of a private key: the seed, and then the public key."""
_TRIAL: Final = b"sealserve compares two signatures of this text"


def find_signer(key: Ed25519PrivateKey) -> Callable[[bytes], bytes]:
    """Return a function that signs with a key. Many threads may use it, and Python's lock is free during a call.

    TensorFlow's library is loaded, if it was not loaded before.

    Args:
        key: The key. The function keeps a copy of it.
    """
    function = getattr(library().others, _FUNCTION, None)
    if function is not None:
        sign = _boring_signer(function, key)
        if sign(_TRIAL) == key.sign(_TRIAL):
            return sign
    logger.warning("TensorFlow's library has no usable function %s: receipts take more time", _FUNCTION)
    return key.sign


def _boring_signer(function: Any, key: Ed25519PrivateKey) -> Callable[[bytes], bytes]:
    function.restype = ctypes.c_int
    function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char * _KEY_SIZE)
    secret = (ctypes.c_char * _KEY_SIZE).from_buffer_copy(
        key.private_bytes_raw() + key.public_key().public_bytes_raw()
    )  # fmt: skip
    buffer = ctypes.c_char * _SIGNATURE_SIZE

    def sign(message: bytes) -> bytes:
        signature = buffer()
        if function(signature, message, len(message), secret) != 1:
            raise RuntimeError(f"{_FUNCTION} failed")
        return signature.raw

    return sign
