"""The signatures inside a quote: from the PCK certificate to the enclave's report.

None of the three checks needs collateral. Therefore a quote that only copies a genuine PCK certificate cannot make
the broker send a request to a PCS (Provisioning Certification Service).

Source: Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4 (quote format version 3).
"""

import hashlib
import hmac
import threading
from collections import OrderedDict
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from sealserve.sgx.codes import SgxCode
from sealserve.sgx.pck import PckChain
from sealserve.sgx.quote import Quote

WRONG_SIGNATURE: Final = "The quote's signature is invalid: its attestation key did not sign it."
WRONG_ATTESTATION_KEY: Final = "The quote is inconsistent: its QE report is bound to another attestation key."
WRONG_QE_REPORT_SIGNATURE: Final = "The quote's QE report is invalid: the platform's PCK key did not sign it."

_MOST_PLATFORMS: Final = 256
_NUMBER: Final = 32  # bytes of r, s, x and y
_SHA256: Final = ec.ECDSA(hashes.SHA256())


def check_signatures(quote: Quote, pck: PckChain) -> None:
    """Check that the platform's quoting enclave signed a quote.

    Args:
        quote: The parsed quote.
        pck: The quote's PCK chain. The caller checks that it ends at a trusted root.

    Raises:
        VerificationError: `quote.qe-report-signature`: The PCK did not sign the quoting enclave's report.
        VerificationError: `quote.attestation-key`: The quoting enclave's report names another attestation key.
        VerificationError: `quote.signature`: The attestation key did not sign the header and the enclave's report.
    """
    # 1 and 2. The platform's quoting enclave owns the attestation key.
    key = _KNOWN_KEYS.owned(quote, pck)
    # 3. The attestation key signed the enclave's report.
    if not _signed(key, quote.signature, quote.signed_bytes()):
        raise SgxCode.QUOTE_SIGNATURE.error(WRONG_SIGNATURE)


def _owned_key(quote: Quote, pck: PckChain) -> ec.EllipticCurvePublicKey | None:
    """Perform steps 1 and 2, and return the attestation key."""
    # 1. The PCK signed the quoting enclave's report: the quoting enclave ran on this platform.
    platform_key = pck.leaf.public_key()
    if not _signed(platform_key, quote.qe_report_signature, quote.qe_report.to_bytes()):
        raise SgxCode.QUOTE_QE_REPORT_SIGNATURE.error(WRONG_QE_REPORT_SIGNATURE)
    # 2. That report binds the attestation key: SHA-256 of the key and of the authentication data, then zeros.
    digest = hashlib.sha256(quote.attestation_key + quote.qe_authentication_data).digest()
    if not hmac.compare_digest(quote.qe_report.report_data, digest.ljust(len(quote.qe_report.report_data), b"\0")):
        raise SgxCode.QUOTE_ATTESTATION_KEY.error(WRONG_ATTESTATION_KEY)
    return _attestation_key(quote.attestation_key)


class _KnownKeys:
    """Attestation keys whose owner was verified. A platform uses one key for all quotes, so it is verified once.

    The complete verified bytes are the key of this cache, and an error is not cached. A client can therefore add only
    what the PCK of a genuine platform signed.
    """

    def __init__(self) -> None:
        self._keys: OrderedDict[tuple[bytes, ...], tuple[PckChain, ec.EllipticCurvePublicKey | None]] = OrderedDict()
        self._lock = threading.Lock()

    def owned(self, quote: Quote, pck: PckChain) -> ec.EllipticCurvePublicKey | None:
        """Return the attestation key after steps 1 and 2, or `None` if it is not a point of P-256."""
        verified = (
            pck.pem,
            quote.qe_report.to_bytes(),
            quote.qe_report_signature,
            quote.attestation_key,
            quote.qe_authentication_data,
        )
        with self._lock:
            known = self._keys.get(verified)
            if known is not None and known[0] is pck:  # another object could have the same text and another certificate
                self._keys.move_to_end(verified)
                return known[1]
        key = _owned_key(quote, pck)
        with self._lock:
            self._keys[verified] = pck, key
            while len(self._keys) > _MOST_PLATFORMS:
                self._keys.popitem(last=False)
        return key


_KNOWN_KEYS: Final = _KnownKeys()


def _attestation_key(raw: bytes) -> ec.EllipticCurvePublicKey | None:
    """Return the key with raw coordinates x and y, or None if they are not a point of P-256."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)
    except ValueError:
        return None


def _signed(key: object, signature: bytes, content: bytes) -> bool:
    """Return whether ``signature`` (raw r and s) is a P-256 signature of ``content`` by ``key``."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    r, s = (int.from_bytes(part, "big") for part in (signature[:_NUMBER], signature[_NUMBER:]))
    try:
        key.verify(encode_dss_signature(r, s), content, _SHA256)
    except InvalidSignature:
        return False
    return True
