"""Receipts for users: the verification of `sealserve.attested.receipt`, as far as a client needs it."""

from sealserve.attested.receipt import MAXIMUM_RECEIPT, ReceiptClaims, verify_receipt

__all__ = ["MAXIMUM_RECEIPT", "ReceiptClaims", "verify_receipt"]
