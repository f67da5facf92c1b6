"""The identity of an attested server: its TLS key, the evidence for users, and the signature of receipts.

The enclave program creates the keys, attests to a broker, and gives the server an identity. The server reads everything
from it and knows neither the attestation protocol nor the formats of evidence and receipts. So TensorFlow Serving's
binary can still take the server's place.

`sealserve.attested.service_identity.ServiceIdentity` implements the protocol.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from sealserve.secret import SecretBytes


class AttestedIdentity(Protocol):
    """The identity of the running enclave. Many threads use it at the same time."""

    @property
    def renewals(self) -> int:
        """The number of renewals. The server loads the certificate again when the number has changed."""

    @property
    def failed_renewals(self) -> int:
        """The number of attempts to renew the certificate that failed."""

    @property
    def certificate_chain(self) -> bytes:
        """The current certificate for the TLS key and its issuers, PEM, leaf first."""

    def private_key_pem(self) -> SecretBytes:
        """Return a copy of the TLS key, PEM. The caller wipes it when it no longer needs it."""

    def evidence(self, nonce: bytes) -> bytes:
        """Return the evidence document for a user's nonce of 32 bytes. It must not use the quoting service."""

    def receipt_signer(self, *, model: str, model_version: str, model_sha256: str) -> "SignReceipt":
        """Return the signer of the receipts for a version of a model.

        Args:
            model: The name of the model.
            model_version: The version that answered, as decimal digits.
            model_sha256: The digest of the version's files, 64 hexadecimal digits.

        Raises:
            ValueError: A receipt cannot contain an argument.
        """


class SignReceipt(Protocol):
    """Signs the receipts for a version of a model. All signers of an identity share the sequence numbers."""

    def __call__(self, request_sha256: bytes, response_sha256: bytes) -> str:
        """Return a receipt with the next sequence number, in printable ASCII.

        Args:
            request_sha256: SHA-256 of the request's message or body, 32 bytes.
            response_sha256: SHA-256 of the response's message or body, 32 bytes.
        """


class ModelCheck(Protocol):
    """Checks a model before and after it is loaded. `sealserve.attester.model_check.check_model` implements it."""

    def __call__(
        self, folder: Path, *, tags: Collection[str], dangerous_operations: Collection[str], loaded: bytes | None = None
    ) -> None:
        """Check a model.

        Args:
            folder: The SavedModel, whose files match the file list.
            tags: The tags of the graph that is served.
            dangerous_operations: Names of operations that the command line allows.
            loaded: The graph that TensorFlow loaded (``MetaGraphDef``), or None before the model is loaded.

        Raises:
            InputError: The model must not be served.
        """
