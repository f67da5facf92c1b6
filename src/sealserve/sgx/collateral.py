"""Collateral: the data about its platforms that a vendor publishes. Quotes cannot be verified without it.

Collateral consists of TCB info (the required security versions of a kind of processor), the identity of the quoting
enclave, and revocation lists. Each part has the certificate chain of its signer. The signatures of the two JSON
documents cover the exact bytes that were served. Therefore the documents are kept as text.

Sources: Intel PCS API version 4 ("Get TCB Info", "Get Quoting Enclave Identity"). The nine fields are the fields of
``sgx_ql_qve_collateral_t`` (``sgx_qve_header.h``), with the JSON form of dcap-qvl's ``QuoteCollateralV3``.
"""

import json
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from cryptography import x509

from sealserve.sgx.certificate_chain import check_links, common_name
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral_documents import load_object
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


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # JSON can contain a lone surrogate, but it cannot be encoded and signed
    return value


def check_signer(name: str, chain: tuple[x509.Certificate, ...], signature: bytes, anchor: TrustAnchor) -> None:
    """Check the signer of one document. The signature itself is not verified here.

    Raises:
        VerificationError: The errors of `sealserve.sgx.parsed_collateral.check_signers`.
    """
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
    if len(signature) != _SIGNATURE_SIZE:
        raise SgxCode.COLLATERAL_MALFORMED.error(
            f"The signature of the {name} is malformed: expected {_SIGNATURE_SIZE} bytes, got {len(signature)}."
        )
