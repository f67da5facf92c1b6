"""Receipts on request: a signature over the digests of a request and of its response.

The digests cover exactly the bytes that the client sent and gets: the gRPC message, or the body of the HTTP message.
A request without the header costs nothing more.
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Final

from sealserve.serving.attested import AttestedIdentity, SignReceipt
from sealserve.serving.request_errors import RequestCode
from sealserve.serving.servables import Servables, ServedVersion
from sealserve.serving_interface import RECEIPT_HEADER, RECEIPT_WANTED

_REMEMBERED: Final = 256
"""Maximum number of versions whose signers are remembered. A release has at most 64 models."""


class Receipts:
    """Answers requests with a receipt.

    Args:
        identity: The identity that signs, or None if the server is not attested.
        servables: The served models, which report the version that a request used.
    """

    def __init__(self, identity: AttestedIdentity | None, servables: Servables) -> None:
        self._identity = identity
        self._servables = servables
        self._signer = lru_cache(_REMEMBERED)(self._make_signer)

    def wanted(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Return whether a request with this metadata asks for a receipt.

        Args:
            metadata: Names in lower case, and values. A name can be repeated.

        Raises:
            RequestError: `request.receipt-form`: It asks in another form.
            RequestError: `request.receipt-unavailable`: The server is not attested.
        """
        found = False
        for name, value in metadata:
            if name == RECEIPT_HEADER:
                found = True
                if value != RECEIPT_WANTED:
                    raise RequestCode.RECEIPT_FORM.error(
                        f"The value of {RECEIPT_HEADER} is invalid: expected {RECEIPT_WANTED}."
                    )
        if found and self._identity is None:
            raise RequestCode.RECEIPT_UNAVAILABLE.error("The server is not attested, so it has no receipts.")
        return found

    def begin(self, request: bytes | bytearray) -> bytes:
        """Return the digest of a request, before the computation of its response frees the request.

        The same thread must compute the response and call `sign`.

        Args:
            request: The request's bytes.
        """
        self._servables.take_used()  # discard the version that an earlier request on this thread used
        return sha256(request).digest()

    def sign(self, request_sha256: bytes, response: bytes) -> str:
        """Return the receipt for a response that this thread computed.

        Args:
            request_sha256: The result of `begin`.
            response: The response's bytes.

        Raises:
            RequestError: `request.receipt-unavailable`: No version of a model with a digest computed the response.
        """
        return self._signer(self._servables.take_used())(request_sha256, sha256(response).digest())

    def _make_signer(self, used: ServedVersion | None) -> SignReceipt:
        if self._identity is None or used is None or used.digest is None:
            raise RequestCode.RECEIPT_UNAVAILABLE.error(
                "The server has no receipt for this response: it does not come from a model of a sealed release."
            )
        try:
            return self._identity.receipt_signer(
                model=used.model, model_version=str(used.version), model_sha256=used.digest
            )
        except ValueError as error:  # the command line accepts more names than release statements
            raise RequestCode.RECEIPT_UNAVAILABLE.error(
                "The server has no receipt for this response: a receipt cannot contain the name of the model."
            ) from error
