"""Receipts for users: the verification of a receipt that just arrived, and the files for a later verification."""

from sealserve.attested.receipt import MAXIMUM_RECEIPT, ReceiptClaims, verify_receipt
from sealserve.client.attested import VerifiedEndpoint
from sealserve.client.predict import ReceivedReceipt
from sealserve.errors import SealserveError

__all__ = ["MAXIMUM_RECEIPT", "ReceiptClaims", "verify_receipt", "verify_received"]

_ANOTHER_REPLICA = "receipt.header"


def verify_received(
    received: ReceivedReceipt, replicas: tuple[VerifiedEndpoint, ...]
) -> tuple[ReceiptClaims, VerifiedEndpoint]:
    """Verify a receipt that just arrived, and return its claims and the replica that signed it.

    Args:
        received: The receipt and its messages.
        replicas: The verified replicas that may have answered, at least one.

    Raises:
        VerificationError: As `verify_receipt`. `receipt.header` means that none of the replicas signed it.
    """
    if not replicas:
        raise ValueError("a receipt is verified with at least one verified replica")
    failure: SealserveError | None = None
    for replica in replicas:
        try:
            claims = verify_receipt(
                received.receipt,
                request=received.request,
                response=received.response,
                keyset=replica.service.keyset,
                statement=replica.service.statement,
            )
        except SealserveError as error:
            if error.code != _ANOTHER_REPLICA:
                raise
            failure = error
        else:
            return claims, replica
    raise failure or AssertionError("unreachable")
