"""RA-TLS: a TLS certificate that carries a quote. The quote is bound to the certificate's key.

Two extensions carry the quote. Gramine up to 1.7 writes the first, Gramine 1.8 and later write both:

- legacy: the raw quote, with report data SHA-256(SubjectPublicKeyInfo) and 32 zero bytes;
- TCG DICE tagged evidence: CBOR tag 60000 around [quote, claims], with report data SHA-256(claims) and 32 zero bytes;
  the claims are a CBOR map in which ``pubkey-hash`` contains [algorithm, hash of SubjectPublicKeyInfo].

If both extensions are present, only the second is used. The certificate's dates, names and self-signature are
unverified claims of the attester and prove nothing. The TLS handshake proves that the peer holds the private key. The
quote proves that an enclave generated that key.

Source: Gramine 1.9, ``tools/sgx/ra-tls/ra_tls_attest.c`` and ``ra_tls_verify_common.c``; TCG DICE Attestation
Architecture 1.1, tagged evidence; IANA, "CBOR Tags" and "Named Information Hash Algorithm Registry".
"""

import hashlib
import hmac
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from sealserve.attestation.claims import REPORT_DATA_SIZE
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.mbedtls_certificate import repair
from sealserve.x509_errors import X509_ERRORS

SPEC_VERSION: Final = "Gramine 1.9, tools/sgx/ra-tls; TCG DICE Attestation Architecture 1.1"
# Gramine included the tag and the length of the OID in its value. The result is a different OID than intended
# (``NON_STANDARD_INTEL_SGX_QUOTE_OID`` in ra_tls.h). Its content octets are 06 09 2A 86 48 86 F8 4D 8A 39 06.
LEGACY_OID: Final = x509.ObjectIdentifier("0.6.9.42.840.113741.1337.6")
TCG_DICE_OID: Final = x509.ObjectIdentifier("2.23.133.5.4.9")
EVIDENCE_TAG: Final = 60000
PUBKEY_HASH: Final = "pubkey-hash"
MAXIMUM_CERTIFICATE: Final = 32 * 1024
MAXIMUM_QUOTE: Final = 8192  # SGX_QUOTE_MAX_SIZE in Gramine 1.9, pal/src/host/linux-sgx/sgx_attest.h

_HASHES: Final[dict[int, Callable[[bytes], bytes]]] = {
    1: lambda data: hashlib.sha256(data).digest(),
    7: lambda data: hashlib.sha384(data).digest(),
    8: lambda data: hashlib.sha512(data).digest(),
}
_MINIMUM_RSA_BITS: Final = 3072  # Gramine up to 1.3
_LIFETIME: Final = timedelta(days=1)

Form = Literal["tcg-dice", "legacy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaTlsEvidence:
    """The evidence from an RA-TLS certificate: an unverified quote, and the report data that binds it to the key.

    Args:
        quote: The raw quote.
        expected_report_data: The 64 bytes that the quote must contain. `check_binding` compares them.
        form: The extension that carried the quote.
        public_key_digest: SHA-256 of the certificate's SubjectPublicKeyInfo.
    """

    quote: bytes
    expected_report_data: bytes
    form: Form
    public_key_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RaTlsKeyPair:
    """A new key pair and its RA-TLS certificate.

    Args:
        private_key: A P-384 key. It is used for one connection only.
        certificate: The certificate, DER.
    """

    private_key: ec.EllipticCurvePrivateKey
    certificate: bytes


def make_certificate(quote_for: Callable[[bytes], bytes], now: datetime) -> RaTlsKeyPair:
    """Generate a key, obtain quotes for it, and return it with a certificate in the format of Gramine 1.9.

    Args:
        quote_for: Returns a quote with the given report data (64 bytes). It is called once for each extension.
        now: The certificate is valid from one day before to one day after this time. Verifiers must not rely on these
            dates.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    public = _public_key_info(key.public_key())
    claims = cbor2.dumps({PUBKEY_HASH: cbor2.dumps([1, hashlib.sha256(public).digest()])})
    legacy = quote_for(_report_data(public))
    evidence = cbor2.dumps(cbor2.CBORTag(EVIDENCE_TAG, [quote_for(_report_data(claims)), claims]))
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "RATLS"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "GramineDevelopers"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(now - _LIFETIME)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(x509.UnrecognizedExtension(LEGACY_OID, legacy), critical=False)
        .add_extension(x509.UnrecognizedExtension(TCG_DICE_OID, evidence), critical=False)
        .sign(key, hashes.SHA256())
    )
    return RaTlsKeyPair(private_key=key, certificate=certificate.public_bytes(serialization.Encoding.DER))


def parse_certificate(der: bytes) -> RaTlsEvidence:
    """Parse an RA-TLS certificate and return its evidence. `sealserve.sgx.appraisal` verifies the quote itself.

    1. The certificate parses, and its key is P-256, P-384 or RSA. A certificate from Gramine 1.4 or 1.5 is repaired
       first. Its self-signature must then verify, because the parsed bytes differ from the signed bytes.
    2. If TCG DICE evidence is present, it is parsed. Its claim must match this key. The legacy extension is ignored.
    3. Otherwise the legacy extension is parsed.

    Raises:
        VerificationError: `ra-tls.certificate` in step 1: not a certificate, an unsupported key type, or a repaired
            certificate whose signature does not verify with its key.
        VerificationError: `ra-tls.evidence` in step 2 or 3: the extension is malformed.
        VerificationError: `ra-tls.claim` in step 2: the claim is for another key.
        VerificationError: `ra-tls.no-evidence` in step 3: neither extension is present.
    """
    if len(der) > MAXIMUM_CERTIFICATE:
        raise AttestationCode.RA_TLS_CERTIFICATE.error(
            f"The RA-TLS certificate is too large: expected at most {MAXIMUM_CERTIFICATE} bytes, got {len(der)}."
        )
    repaired = repair(der)
    try:  # (1)
        certificate = x509.load_der_x509_certificate(repaired.der if repaired else der)
        public_key = certificate.public_key()
        extensions = {extension.oid: extension.value for extension in certificate.extensions}
    except X509_ERRORS as error:
        raise AttestationCode.RA_TLS_CERTIFICATE.error(f"The RA-TLS certificate cannot be parsed: {error}.") from error
    if repaired is not None and not repaired.verify_original(public_key):
        raise AttestationCode.RA_TLS_CERTIFICATE.error(
            "The RA-TLS certificate is invalid: its self-signature does not verify. Its algorithm identifiers have the "
            "format of Gramine 1.4 and 1.5."
        )
    public = _public_key_info(public_key)
    if (dice := extensions.get(TCG_DICE_OID)) is not None:  # (2)
        return _parse_evidence(_raw(dice), public)
    if (legacy := extensions.get(LEGACY_OID)) is not None:  # (3)
        quote = _check_quote(_raw(legacy))
        return RaTlsEvidence(
            quote=quote,
            expected_report_data=_report_data(public),
            form="legacy",
            public_key_digest=hashlib.sha256(public).digest(),
        )
    raise AttestationCode.RA_TLS_NO_EVIDENCE.error(
        f"The RA-TLS certificate carries no evidence: it has neither TCG DICE evidence ({TCG_DICE_OID.dotted_string}) "
        f"nor Gramine's legacy extension ({LEGACY_OID.dotted_string}).",
        hint="Start the server in an enclave with RA-TLS. The broker releases keys only to attested enclaves.",
    )


def check_binding(evidence: RaTlsEvidence, report_data: bytes) -> None:
    """Check that the report data of a quote binds the quote to the certificate.

    Args:
        evidence: The evidence from `parse_certificate`.
        report_data: The report data from the quote, 64 bytes.

    Raises:
        VerificationError: `ra-tls.binding` if the report data differs from the expected report data.
    """
    if not hmac.compare_digest(evidence.expected_report_data, report_data):
        raise AttestationCode.RA_TLS_BINDING.error(
            f"The quote is not bound to the RA-TLS certificate: expected report data "
            f"{evidence.expected_report_data.hex()}, got {report_data.hex()}.",
            hint="Check whether the quote was copied from another certificate.",
        )


def _parse_evidence(raw: bytes, public: bytes) -> RaTlsEvidence:
    tagged = _decode(raw, "evidence")
    if not isinstance(tagged, cbor2.CBORTag) or tagged.tag != EVIDENCE_TAG:
        raise AttestationCode.RA_TLS_EVIDENCE.error(
            f"The RA-TLS evidence is malformed: expected CBOR tag {EVIDENCE_TAG}."
        )
    match tagged.value:
        case [bytes() as quote, bytes() as claims]:
            pass
        case _:
            raise AttestationCode.RA_TLS_EVIDENCE.error(
                "The RA-TLS evidence is malformed: expected an array of two byte strings (quote, claims)."
            )
    mapping = _decode(claims, "claims")
    entry = mapping.get(PUBKEY_HASH) if isinstance(mapping, dict) else None
    if not isinstance(entry, bytes):
        raise AttestationCode.RA_TLS_EVIDENCE.error(
            f"The RA-TLS claims are malformed: expected a map with the byte string {PUBKEY_HASH!r}."
        )
    match _decode(entry, PUBKEY_HASH):
        case [int() as algorithm, bytes() as digest] if algorithm in _HASHES:
            pass
        case _:
            raise AttestationCode.RA_TLS_EVIDENCE.error(
                f"The RA-TLS claim {PUBKEY_HASH} is malformed: expected an array of a hash algorithm (1, 7 or 8) and a "
                "byte string."
            )
    if not hmac.compare_digest(digest, _HASHES[algorithm](public)):
        raise AttestationCode.RA_TLS_CLAIM.error(
            f"The RA-TLS claim {PUBKEY_HASH} does not match the certificate's key: expected "
            f"{_HASHES[algorithm](public).hex()}, got {digest.hex()}."
        )
    return RaTlsEvidence(
        quote=_check_quote(quote),
        expected_report_data=_report_data(claims),
        form="tcg-dice",
        public_key_digest=hashlib.sha256(public).digest(),
    )


def _decode(raw: bytes, what: str) -> Any:
    stream = io.BytesIO(raw)
    try:
        value = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise AttestationCode.RA_TLS_EVIDENCE.error(f"The RA-TLS {what} is malformed: it is not CBOR.") from error
    if stream.tell() != len(raw):
        raise AttestationCode.RA_TLS_EVIDENCE.error(
            f"The RA-TLS {what} is malformed: {len(raw) - stream.tell()} extra bytes follow the CBOR value."
        )
    return value


def _raw(extension: x509.ExtensionType) -> bytes:
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise AttestationCode.RA_TLS_EVIDENCE.error(
            "The RA-TLS certificate has an evidence extension of an unexpected form."
        )
    return extension.value


def _check_quote(quote: bytes) -> bytes:
    if not 0 < len(quote) <= MAXIMUM_QUOTE:
        raise AttestationCode.RA_TLS_EVIDENCE.error(
            f"The RA-TLS evidence is malformed: expected a quote of 1 to {MAXIMUM_QUOTE} bytes, got {len(quote)}."
        )
    return quote


def _public_key_info(key: object) -> bytes:
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            pass
        case rsa.RSAPublicKey(key_size=size) if size >= _MINIMUM_RSA_BITS:
            pass
        case _:
            raise AttestationCode.RA_TLS_CERTIFICATE.error(
                "The RA-TLS certificate has an unsupported key: expected P-256, P-384, or RSA of at least 3072 bits."
            )
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _report_data(bound: bytes) -> bytes:
    return hashlib.sha256(bound).digest().ljust(REPORT_DATA_SIZE, b"\0")
