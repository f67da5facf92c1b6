"""Collateral: what a vendor publishes about its platforms, without which no quote can be judged.

TCB info (which security versions a kind of processor should have), the quoting enclave's identity, and revocation
lists, each with the chain of its signer. The two JSON documents are signed as the exact bytes that were served, so they
are kept as text.

Sources: Intel PCS API version 4 ("Get TCB Info", "Get Quoting Enclave Identity"); the nine fields are those of
``sgx_ql_qve_collateral_t`` (``sgx_qve_header.h``), their JSON form that of dcap-qvl's ``QuoteCollateralV3``.
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
    """All that is needed to verify quotes of one kind of platform. Nothing in it is verified.

    Args:
        pck_crl_issuer_chain: PEM, the PCK CA first. Not relied on: the PCK CA in the quote must have signed the list.
        root_ca_crl: DER.
        pck_crl: DER.
        tcb_info_issuer_chain: PEM, the signer first.
        tcb_info: JSON, the exact text that is signed.
        tcb_info_signature: Raw r and s, 64 bytes.
        qe_identity_issuer_chain: PEM, the signer first.
        qe_identity: JSON, the exact text that is signed.
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
        """Read the nine fields from JSON, binary ones in hexadecimal.

        Raises:
            VerificationError: `collateral.malformed`: A field is missing, unknown, or of another type.
            VerificationError: `collateral.duplicate-key`: A key occurs twice.
        """
        found = load_object(text, of="Collateral")
        names = {field.name for field in fields(cls)}
        if found.keys() != names:
            odd = ", ".join(sorted(found.keys() ^ names))
            raise SgxCode.COLLATERAL_MALFORMED.error(f"Collateral: these fields are missing or unknown: {odd}.")
        values: dict[str, Any] = {}
        for name, value in found.items():
            try:
                values[name] = bytes.fromhex(value) if name in _BINARY else _text(value)
            except (TypeError, ValueError) as error:
                raise SgxCode.COLLATERAL_MALFORMED.error(
                    f"Collateral: {name} must be {'hexadecimal' if name in _BINARY else 'text'}."
                ) from error
        return cls(**values)

    def to_json(self) -> str:
        """Return the JSON that `from_json` reads."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({name: value.hex() if name in _BINARY else value for name, value in values.items()}, indent=2)

    def check_signers(self, anchor: TrustAnchor) -> None:
        """Check that both documents come with the chain of the vendor's TCB signing key, and have signatures at all.

        dcap-qvl accepts any certificate below the root, a platform's own PCK certificate included: one extracted PCK
        key would be enough to declare any platform up to date.

        Raises:
            VerificationError: `collateral.signer-not-tcb-signing`: The signer is another certificate.
            VerificationError: `certificate-chain.malformed`: A chain is not signer and root.
            VerificationError: `certificate-chain.broken`: The root did not issue the signer.
            VerificationError: `collateral.malformed`: A signature does not have 64 bytes.
        """
        for name, chain, signature in (
            ("TCB info", self.tcb_info_issuer_chain, self.tcb_info_signature),
            ("QE identity", self.qe_identity_issuer_chain, self.qe_identity_signature),
        ):
            _check_signer(name, parse_chain(chain.encode(), of=f"{name} issuer chain"), anchor)
            if len(signature) != _SIGNATURE_SIZE:
                raise SgxCode.COLLATERAL_MALFORMED.error(
                    f"{name}: expected a signature of {_SIGNATURE_SIZE} bytes, got {len(signature)}."
                )

    def check_dates(self, now: datetime) -> None:
        """Check that every part is valid at ``now``.

        Raises:
            VerificationError: `collateral.expired`: A part's next update is past.
            VerificationError: `collateral.not-yet-valid`: A part was issued after ``now``, by more than `CLOCK_SKEW`.
            VerificationError: `collateral.malformed`: A part does not parse.
        """
        for name, issued, next_update in self._windows():
            if issued - now > CLOCK_SKEW:
                raise SgxCode.COLLATERAL_NOT_YET_VALID.error(
                    f"{name}: issued at {issued:%Y-%m-%dT%H:%M:%SZ}, after {now:%Y-%m-%dT%H:%M:%SZ}.",
                    hint="Is this machine's clock right?",
                )
            if now > next_update:
                raise SgxCode.COLLATERAL_EXPIRED.error(
                    f"{name}: valid until {next_update:%Y-%m-%dT%H:%M:%SZ}, and it is {now:%Y-%m-%dT%H:%M:%SZ}.",
                    hint="Fetch fresh collateral; a PCCS may need to be told to refresh its cache.",
                )

    def starts(self) -> Iterator[datetime]:
        """Yield when each part, and each certificate of its signers, becomes valid.

        Raises:
            VerificationError: `collateral.malformed`, `certificate-chain.malformed`: A part does not parse.
        """
        yield from (issued for _, issued, _ in self._windows())
        for chain in (self.tcb_info_issuer_chain, self.qe_identity_issuer_chain):
            yield from (found.not_valid_before_utc for found in parse_chain(chain.encode(), of="issuer chain"))

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
    value.encode()  # a lone surrogate can be written in JSON, but not signed
    return value


def _check_signer(name: str, chain: tuple[x509.Certificate, ...], anchor: TrustAnchor) -> None:
    signer = chain[0]
    if common_name(signer) != anchor.names.tcb_signing or sgx_extension(signer) is not None:
        raise SgxCode.COLLATERAL_SIGNER_NOT_TCB_SIGNING.error(
            f"{name}: expected the signer {anchor.names.tcb_signing!r}, got {common_name(signer)!r}"
            f"{' (a platform certificate)' if sgx_extension(signer) is not None else ''}.",
            hint="Whoever serves this collateral may be hostile: another key than the vendor's signed it.",
        )
    if len(chain) != 2 or chain[1] != anchor.certificate:  # noqa: PLR2004  # signer and root
        raise SgxCode.CERTIFICATE_CHAIN_MALFORMED.error(
            f"{name} issuer chain: expected the signer and the trusted root, nothing else."
        )
    check_links(chain, of=f"{name} issuer chain")
