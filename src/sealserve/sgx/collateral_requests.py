"""The documents of collateral: their names, their URLs, and the checks that a reply passes before it is cached.

A reply that fails a check never replaces a document in the cache. So a PCS or PCCS that starts to serve wrong documents
cannot displace valid documents. The checks do not replace the verification of a quote, which verifies all collateral.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, Self, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from sealserve.errors import VerificationError
from sealserve.sgx.certificate_chain import check_links, common_name, parse_chain
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import check_signer
from sealserve.sgx.collateral_documents import parse_crl, parse_tcb_info
from sealserve.sgx.pck import PckCa, PckChain
from sealserve.sgx.pcs_responses import Listed, Signed, read_pck_crl, read_qe_identity, read_root_crl, read_tcb_info
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.terms import CollateralUpdate
from sealserve.x509_errors import X509_ERRORS

_FMSPC: Final = re.compile(r"[0-9A-F]{12}")


class Kind(StrEnum):
    """The kind of a document. The value is the start of its name."""

    TCB_INFO = "tcb"
    QE_IDENTITY = "qe-identity"
    PCK_CRL = "pckcrl"
    ROOT_CRL = "root-crl"

    @property
    def label(self) -> str:
        """The name of the kind in messages."""
        return _TITLES[self]


_TITLES: Final = {
    Kind.TCB_INFO: "TCB info",
    Kind.QE_IDENTITY: "QE identity",
    Kind.PCK_CRL: "PCK CRL",
    Kind.ROOT_CRL: "Root CRL",
}
_READERS: Final[Mapping[Kind, Callable[[bytes, Mapping[str, str]], Signed | Listed]]] = {
    Kind.TCB_INFO: read_tcb_info,
    Kind.QE_IDENTITY: read_qe_identity,
    Kind.PCK_CRL: read_pck_crl,
    Kind.ROOT_CRL: read_root_crl,
}
_RATED: Final = frozenset({Kind.TCB_INFO, Kind.QE_IDENTITY})
"""The kinds of documents that a TCB recovery changes."""
_SIGNATURE_CODES: Final = {
    Kind.TCB_INFO: SgxCode.COLLATERAL_TCB_INFO_SIGNATURE,
    Kind.QE_IDENTITY: SgxCode.COLLATERAL_QE_IDENTITY_SIGNATURE,
}


@dataclass(frozen=True, slots=True)
class Document:
    """A document of collateral.

    Args:
        kind: The kind.
        subject: The FMSPC of TCB info (12 upper-case hexadecimal digits), or the CA of a PCK CRL. Else empty.
        update: The update channel of TCB info or a QE identity. Revocation lists have only one.
    """

    kind: Kind
    subject: str = ""
    update: CollateralUpdate = CollateralUpdate.STANDARD

    @property
    def name(self) -> str:
        """The name, for example ``tcb-00906ED50000``. It is also the name of the file."""
        name = f"{self.kind}-{self.subject}" if self.subject else str(self.kind)
        return name if self.update is CollateralUpdate.STANDARD else f"{name}-{self.update}"

    @property
    def title(self) -> str:
        """The name for people, for example ``TCB info for FMSPC 00906ED50000``."""
        channel = "" if self.update is CollateralUpdate.STANDARD else f" ({self.update})"
        match self.kind:
            case Kind.TCB_INFO:
                return f"{self.kind.label} for FMSPC {self.subject}{channel}"
            case Kind.PCK_CRL:
                return f"{self.kind.label} of the {self.subject} CA"
        return f"{self.kind.label}{channel}"

    @classmethod
    def named(cls, name: str) -> Self | None:
        """Return the document with this name, or `None` if it is not the name of a document."""
        standard = name.removesuffix(f"-{CollateralUpdate.EARLY}")
        if standard != name:
            found = cls.named(standard)
            rated = found is not None and found.update is CollateralUpdate.STANDARD and found.kind in _RATED
            return replace(found, update=CollateralUpdate.EARLY) if found is not None and rated else None
        if name in (Kind.QE_IDENTITY, Kind.ROOT_CRL):
            return cls(Kind(name))
        kind, _, subject = name.partition("-")
        known = (kind == Kind.TCB_INFO and _FMSPC.fullmatch(subject)) or (
            kind == Kind.PCK_CRL and subject in set(PckCa)
        )
        return cls(Kind(kind), subject) if known else None

    def url(self, api: str, root_crl: str) -> str:
        """Return the URL of the document.

        Args:
            api: The base of the API, version 4.
            root_crl: The URL of the root's revocation list.
        """
        match self.kind:
            case Kind.TCB_INFO:
                early = "" if self.update is CollateralUpdate.STANDARD else f"&update={self.update}"
                return f"{api}/tcb?fmspc={self.subject}{early}"
            case Kind.QE_IDENTITY:
                early = "" if self.update is CollateralUpdate.STANDARD else f"?update={self.update}"
                return f"{api}/qe/identity{early}"
            case Kind.PCK_CRL:
                return f"{api}/pckcrl?ca={self.subject}&encoding=der"
        return root_crl

    def read(self, body: bytes, headers: Mapping[str, str], *, anchor: TrustAnchor | None) -> Signed | Listed:
        """Parse a reply, and check that it is this document and that the vendor signed it.

        Args:
            body: The body of the reply.
            headers: The headers of the reply.
            anchor: The trusted root. `None` omits the check of the signature.

        Raises:
            VerificationError: The reply is malformed, is another document, or is not signed by the vendor.
        """
        value = _READERS[self.kind](body, headers)
        if isinstance(value, Signed) and self.kind is Kind.TCB_INFO:
            found = parse_tcb_info(value.text).fmspc.upper()
            if found != self.subject:
                raise SgxCode.COLLATERAL_FMSPC.error(
                    f"The TCB info is for another kind of processor: expected FMSPC {self.subject}, got {found}.",
                    hint="Check the service at broker.collateral_url. It served the wrong document.",
                )
        if anchor is not None:
            self._check_signature(value, anchor)
        return value

    def _check_signature(self, value: Signed | Listed, anchor: TrustAnchor) -> None:
        if isinstance(value, Signed):
            chain = parse_chain(value.chain.encode(), of=f"{self.kind.label} issuer chain")
            check_signer(self.kind.label, chain, value.signature, anchor)
            half = len(value.signature) // 2
            r, s = (int.from_bytes(part) for part in (value.signature[:half], value.signature[half:]))
            key = chain[0].public_key()
            try:
                cast(EllipticCurvePublicKey, key).verify(
                    encode_dss_signature(r, s), value.text.encode(), ECDSA(SHA256())
                )
            except (InvalidSignature, AttributeError, TypeError, ValueError) as error:  # another kind of key, too
                raise _SIGNATURE_CODES[self.kind].error(
                    f"The {self.kind.label}'s signature is invalid: its signer did not sign this text.",
                    hint="Check the service at broker.collateral_url. It served a changed document.",
                ) from error
            return
        issuer = anchor.certificate
        if self.kind is Kind.PCK_CRL:
            chain = parse_chain(value.chain.encode(), of="PCK CRL issuer chain")
            check_links((chain[0], issuer), of="PCK CRL issuer chain")
            if common_name(chain[0]) not in (anchor.names.processor_ca, anchor.names.platform_ca):
                raise _wrong_crl(self, common_name(chain[0]))
            issuer = chain[0]
        crl = parse_crl(value.crl, of=self.kind.label)
        try:
            if crl.issuer != issuer.subject or not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]
                raise _wrong_crl(self, crl.issuer.rfc4514_string())
        except X509_ERRORS as error:
            raise _wrong_crl(self, "another kind of key") from error


def documents_for(
    pck: PckChain, update: CollateralUpdate = CollateralUpdate.STANDARD
) -> tuple[Document, Document, Document, Document]:
    """Return the documents that the platform of a PCK certificate needs: TCB info, QE identity, PCK CRL, root CRL."""
    return (
        Document(Kind.TCB_INFO, pck.extension.fmspc.upper(), update),
        Document(Kind.QE_IDENTITY, update=update),
        Document(Kind.PCK_CRL, pck.ca),
        Document(Kind.ROOT_CRL),
    )


def check_current(document: Document, value: Signed | Listed, now: datetime) -> None:
    """Check that a downloaded document has not expired.

    Raises:
        VerificationError: `collateral.expired` if it has.
    """
    if now > value.next_update:
        raise SgxCode.COLLATERAL_EXPIRED.error(
            f"The {document.title} has expired: it was valid until {value.next_update:%Y-%m-%dT%H:%M:%SZ}, and the "
            f"time is {now:%Y-%m-%dT%H:%M:%SZ}.",
            hint="Refresh the collateral at the service of broker.collateral_url, for example a PCCS.",
        )


def _wrong_crl(document: Document, found: str) -> VerificationError:
    error = SgxCode.COLLATERAL_CRL.error(
        f"The {document.title} is not signed by its issuer below the trusted root: got {found!r}.",
        hint="Check the service at broker.collateral_url. It served the wrong document.",
    )
    assert isinstance(error, VerificationError)  # noqa: S101  # the family of the code
    return error
