"""Collateral: the data about its platforms that a vendor publishes. Quotes cannot be verified without it.

Collateral consists of TCB info (the required security versions of a kind of processor), the identity of the quoting
enclave, and revocation lists. Each part has the certificate chain of its signer. The signatures of the two JSON
documents cover the exact bytes that were served. Therefore the documents are kept as text.

Sources: Intel PCS API version 4 ("Get TCB Info", "Get Quoting Enclave Identity"). The nine fields are the fields of
``sgx_ql_qve_collateral_t`` (``sgx_qve_header.h``), with the JSON form of dcap-qvl's ``QuoteCollateralV3``.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Self

from cryptography import x509

from sealserve.clock import CLOCK_SKEW
from sealserve.sgx.certificate_chain import check_links, common_name, parse_chain
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral_documents import load_object, next_update_of, parse_crl, parse_qe_identity, parse_tcb_info
from sealserve.sgx.pck import sgx_extension
from sealserve.sgx.trust_anchor import TrustAnchor

_BINARY: Final = frozenset({"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"})
_SIGNATURE_SIZE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """All data that is needed to verify quotes of one kind of platform. None of it is verified.

    Args:
        pck_crl_issuer_chain: PEM, the PCK CA first. It is not trusted: the PCK CA in the quote must have signed the
            list.
        root_ca_crl: The revocation list of the root, DER.
        pck_crl: The revocation list of the PCK CA, DER.
        tcb_info_issuer_chain: PEM, the signer first.
        tcb_info: The JSON text, exactly as signed.
        tcb_info_signature: Raw r and s, 64 bytes.
        qe_identity_issuer_chain: PEM, the signer first.
        qe_identity: The JSON text, exactly as signed.
        qe_identity_signature: Raw r and s, 64 bytes.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the nine fields from JSON. Binary fields are hexadecimal.

        Raises:
            VerificationError: `collateral.malformed` if a field is missing, unknown or of the wrong type.
            VerificationError: `collateral.duplicate-key` if a key occurs twice.
        """
        found = load_object(text, of="Collateral")
        names = {field.name for field in fields(cls)}
        if found.keys() != names:
            odd = ", ".join(sorted(found.keys() ^ names))
            raise SgxCode.COLLATERAL_MALFORMED.error(f"The collateral has missing or unknown fields: {odd}.")
        values: dict[str, Any] = {}
        for name, value in found.items():
            try:
                values[name] = bytes.fromhex(value) if name in _BINARY else _text(value)
            except (TypeError, ValueError) as error:
                raise SgxCode.COLLATERAL_MALFORMED.error(
                    f"The collateral's field {name} must be {'hexadecimal' if name in _BINARY else 'text'}."
                ) from error
        return cls(**values)

    def to_json(self) -> str:
        """Return the collateral as JSON in the format of `from_json`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({name: value.hex() if name in _BINARY else value for name, value in values.items()}, indent=2)

    def check_signers(self, anchor: TrustAnchor) -> None:
        """Check that both documents have the certificate chain of the vendor's TCB signing key, and a signature.

        dcap-qvl accepts any signer below the root, even a platform's own PCK certificate. With one extracted PCK key,
        an attacker could declare any platform up to date.

        Raises:
            VerificationError: `collateral.signer-not-tcb-signing` if the signer is another certificate.
            VerificationError: `certificate-chain.malformed` if a chain does not consist of the signer and the root.
            VerificationError: `certificate-chain.broken` if the root did not issue the signer.
            VerificationError: `collateral.malformed` if a signature does not have 64 bytes.
        """
        for name, chain, signature in (
            ("TCB info", self.tcb_info_issuer_chain, self.tcb_info_signature),
            ("QE identity", self.qe_identity_issuer_chain, self.qe_identity_signature),
        ):
            _check_signer(name, parse_chain(chain.encode(), of=f"{name} issuer chain"), anchor)
            if len(signature) != _SIGNATURE_SIZE:
                raise SgxCode.COLLATERAL_MALFORMED.error(
                    f"The signature of the {name} is malformed: expected {_SIGNATURE_SIZE} bytes, got {len(signature)}."
                )

    def check_dates(self, now: datetime) -> None:
        """Check that every part is valid at ``now``.

        Raises:
            VerificationError: `collateral.expired` if ``now`` is after the next update of a part.
            VerificationError: `collateral.not-yet-valid` if a part was issued more than `CLOCK_SKEW` after ``now``.
            VerificationError: `collateral.malformed` if a part cannot be parsed.
        """
        for name, issued, next_update in self._windows():
            if issued - now > CLOCK_SKEW:
                raise SgxCode.COLLATERAL_NOT_YET_VALID.error(
                    f"The {name} is not valid yet: it was issued at {issued:%Y-%m-%dT%H:%M:%SZ}, and the time is "
                    f"{now:%Y-%m-%dT%H:%M:%SZ}.",
                    hint="Check this machine's clock.",
                )
            if now > next_update:
                raise SgxCode.COLLATERAL_EXPIRED.error(
                    f"The {name} has expired: it was valid until {next_update:%Y-%m-%dT%H:%M:%SZ}, and the time is "
                    f"{now:%Y-%m-%dT%H:%M:%SZ}.",
                    hint="Refresh the collateral at the service of broker.collateral_url, for example a PCCS.",
                )

    def starts(self) -> Iterator[datetime]:
        """Yield the start of validity of each part and of each certificate of its signers.

        Raises:
            VerificationError: `collateral.malformed` or `certificate-chain.malformed` if a part cannot be parsed.
        """
        yield from (issued for _, issued, _ in self._windows())
        for chain in (self.tcb_info_issuer_chain, self.qe_identity_issuer_chain):
            yield from (
                found.not_valid_before_utc for found in parse_chain(chain.encode(), of="collateral issuer chain")
            )

    def _windows(self) -> Iterator[tuple[str, datetime, datetime]]:
        tcb_info, qe_identity = parse_tcb_info(self.tcb_info), parse_qe_identity(self.qe_identity)
        yield "TCB info", tcb_info.issue_date, tcb_info.next_update
        yield "QE identity", qe_identity.issue_date, qe_identity.next_update
        for name, raw in (("Root CRL", self.root_ca_crl), ("PCK CRL", self.pck_crl)):
            crl = parse_crl(raw, of=name)
            yield name, crl.last_update_utc, next_update_of(crl, of=name)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # JSON can contain a lone surrogate, but it cannot be encoded and signed
    return value


def _check_signer(name: str, chain: tuple[x509.Certificate, ...], anchor: TrustAnchor) -> None:
    signer = chain[0]
    if common_name(signer) != anchor.names.tcb_signing or sgx_extension(signer) is not None:
        raise SgxCode.COLLATERAL_SIGNER_NOT_TCB_SIGNING.error(
            f"The {name} is not signed by the TCB signing key: expected the signer {anchor.names.tcb_signing!r}, "
            f"got {common_name(signer)!r}{' (a platform certificate)' if sgx_extension(signer) is not None else ''}.",
            hint="Do not trust the service that sent this collateral: its signature is not the processor vendor's.",
        )
    if len(chain) != 2 or chain[1] != anchor.certificate:  # noqa: PLR2004  # signer and root
        raise SgxCode.CERTIFICATE_CHAIN_MALFORMED.error(
            f"The {name} issuer chain is malformed: expected exactly the signer and the trusted root."
        )
    check_links(chain, of=f"{name} issuer chain")
