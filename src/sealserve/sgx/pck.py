"""PCK certificates (Provisioning Certification Key): the vendor's statement about one platform, with its chain.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, sections 1.3.4 and 1.3.5
(the extension 1.2.840.113741.1.13.1 and its parts).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType, Self

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.sgx.certificate_chain import check_links, common_name, parse_chain
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.trust_anchor import INTEL, SIMULATED, TrustAnchor

SGX_EXTENSION: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
COMPONENTS: Final = 16  # components of CPUSVN
# (name, last number of its object identifier, size in bytes)
_OCTETS: Final = (("ppid", 1, 16), ("pce_id", 3, 2), ("fmspc", 4, 6))
_TCB: Final = 2
_PCE_SVN: Final = 17
_CPU_SVN: Final = 18
_PLATFORM_INSTANCE_ID: Final = 6
_CHAIN_LENGTH: Final = 3

Fmspc = NewType("Fmspc", str)
"""Family, model, stepping, platform type and SKU of a processor: 12 upper-case hexadecimal digits."""


class PckCa(StrEnum):
    """The two CAs that issue PCK certificates: for platforms with one processor package, and with several."""

    PROCESSOR = "processor"
    PLATFORM = "platform"


@asn1.sequence
class _Item:
    identifier: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class _Any:
    value: asn1.TLV


@asn1.sequence
class _Items:
    items: list[_Item]


@dataclass(frozen=True, slots=True, kw_only=True)
class PckExtension:
    """The platform data in a PCK certificate.

    Args:
        ppid: Platform provisioning id, 16 bytes.
        cpu_svn: Security versions of the processor, 16 bytes.
        pce_svn: Security version of the provisioning certification enclave (PCE).
        pce_id: Id of the PCE, 2 bytes.
        fmspc: The kind of processor.
        platform_instance_id: 16 bytes. Only in certificates of the Platform CA.
    """

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: Fmspc
    platform_instance_id: bytes | None = None

    @property
    def platform_id(self) -> str:
        """The unique id of this platform, in hexadecimal: the platform instance id if it exists, else the PPID."""
        return (self.platform_instance_id or self.ppid).hex()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the value of the SGX extension.

        Raises:
            VerificationError: `pck.malformed` if a part is missing, duplicated, or of the wrong type or size.
            VerificationError: `pck.svn-inconsistent` if the sixteen components differ from the bytes of CPUSVN.
        """
        try:
            parts = _items(asn1.decode_der(asn1.TLV, raw), prefix=SGX_EXTENSION)
            octets = {name: _octets(parts[number], name, size) for name, number, size in _OCTETS}
            tcb = _items(parts[_TCB], prefix=x509.ObjectIdentifier(f"{SGX_EXTENSION.dotted_string}.{_TCB}"))
            components = [tcb[number].parse(int) for number in range(1, COMPONENTS + 1)]
            cpu_svn = _octets(tcb[_CPU_SVN], "CPUSVN", COMPONENTS)
            pce_svn = tcb[_PCE_SVN].parse(int)
            instance = parts.get(_PLATFORM_INSTANCE_ID)
            instance_id = None if instance is None else _octets(instance, "platform instance id", 16)
        except KeyError as error:
            raise SgxCode.PCK_MALFORMED.error(
                f"The PCK certificate is malformed: its SGX extension lacks the part {error}."
            ) from error
        except (ValueError, TypeError) as error:
            raise SgxCode.PCK_MALFORMED.error(
                "The PCK certificate is malformed: its SGX extension violates the specification."
            ) from error
        if components != list(cpu_svn):
            raise SgxCode.PCK_SVN_INCONSISTENT.error(
                f"The PCK certificate is inconsistent: its TCB components {components} differ from its "
                f"CPUSVN {cpu_svn.hex()}."
            )
        return cls(
            ppid=octets["ppid"],
            cpu_svn=cpu_svn,
            pce_svn=pce_svn,
            pce_id=octets["pce_id"],
            fmspc=Fmspc(octets["fmspc"].hex().upper()),
            platform_instance_id=instance_id,
        )


def _items(sequence: asn1.TLV, *, prefix: x509.ObjectIdentifier) -> dict[int, asn1.TLV]:
    """Return the values of a SEQUENCE OF SEQUENCE {identifier, value}, by the last number of their identifiers."""
    boxed = asn1.encode_der(_Any(value=sequence))  # the library decodes lists only as fields, so wrap the sequence
    found: dict[int, asn1.TLV] = {}
    for item in asn1.decode_der(_Items, boxed).items:
        head, _, last = item.identifier.dotted_string.rpartition(".")
        if head != prefix.dotted_string or int(last) in found:
            raise SgxCode.PCK_MALFORMED.error(
                f"The PCK certificate is malformed: {item.identifier.dotted_string} is duplicated or not permitted in "
                "its SGX extension."
            )
        found[int(last)] = item.value
    return found


def _octets(value: asn1.TLV, name: str, size: int) -> bytes:
    octets: bytes = value.parse(bytes)
    if len(octets) != size:
        raise SgxCode.PCK_MALFORMED.error(
            f"The PCK certificate is malformed: expected {size} bytes for {name}, got {len(octets)}."
        )
    return octets


def sgx_extension(certificate: x509.Certificate) -> bytes | None:
    """Return the value of a certificate's SGX extension, or `None`. Only PCK certificates have this extension."""
    try:
        value = certificate.extensions.get_extension_for_oid(SGX_EXTENSION).value
    except x509.ExtensionNotFound:
        return None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class PckChain:
    """A platform's PCK certificate, its issuer and the root. None of them is verified.

    Args:
        leaf: The PCK certificate.
        issuer: The Processor CA or the Platform CA.
        root: The vendor's root.
        extension: The platform data in the leaf.
        ca: The role of the issuer, according to its name.
        pem: The parsed text.
    """

    leaf: x509.Certificate
    issuer: x509.Certificate
    root: x509.Certificate
    extension: PckExtension
    ca: PckCa
    pem: bytes = field(repr=False)

    @classmethod
    def parse(cls, pem: bytes) -> Self:
        """Parse the certificate chain of a quote.

        Raises:
            VerificationError: `certificate-chain.malformed` if it is not a chain of PEM certificates.
            VerificationError: `pck.chain` if it does not have three certificates.
            VerificationError: `pck.issuer-not-pck-ca` if the issuer is neither the Processor CA nor the Platform CA.
            VerificationError: `pck.malformed` if the SGX extension violates the specification.
        """
        chain = parse_chain(pem, of="PCK certificate chain")
        if len(chain) != _CHAIN_LENGTH:
            raise SgxCode.PCK_CHAIN.error(
                f"The PCK certificate chain is invalid: expected leaf, PCK CA and root, got {len(chain)} certificates."
            )
        leaf, issuer, root = chain
        raw = sgx_extension(leaf)
        if raw is None:
            raise SgxCode.PCK_MALFORMED.error(
                f"The PCK certificate is malformed: {common_name(leaf)!r} lacks the SGX extension."
            )
        return cls(leaf=leaf, issuer=issuer, root=root, extension=PckExtension.parse(raw), ca=_ca(issuer), pem=pem)

    def check(self, anchor: TrustAnchor) -> None:
        """Check names and signatures up to the anchor. dcap-qvl checks validity and revocation.

        This check works without collateral. It therefore also prevents unauthenticated clients from triggering
        collateral downloads.

        Raises:
            VerificationError: `pck.root-not-trusted` if the root is not the anchor.
            VerificationError: `pck.issuer-not-pck-ca` if the issuer is not the Processor or Platform CA of this vendor.
            VerificationError: `certificate-chain.broken` if a certificate was not issued by the next one.
        """
        if self.root.public_bytes(Encoding.DER) != anchor.root_der:
            raise SgxCode.PCK_ROOT_NOT_TRUSTED.error(
                f"The PCK certificate chain does not end at the trusted root: expected {anchor.names.root!r}, got "
                f"{common_name(self.root)!r} or another certificate with that name.",
                hint="Check whether the platform kinds of the quote and of the release differ (simulated or SGX).",
            )
        expected = anchor.names.processor_ca if self.ca is PckCa.PROCESSOR else anchor.names.platform_ca
        if common_name(self.issuer) != expected:
            raise SgxCode.PCK_ISSUER_NOT_PCK_CA.error(
                f"The PCK certificate has an invalid issuer: expected {expected!r}, got {common_name(self.issuer)!r}."
            )
        check_links((self.leaf, self.issuer, self.root), of="PCK certificate chain")


def _ca(issuer: x509.Certificate) -> PckCa:
    match common_name(issuer):
        case INTEL.processor_ca | SIMULATED.processor_ca:
            return PckCa.PROCESSOR
        case INTEL.platform_ca | SIMULATED.platform_ca:
            return PckCa.PLATFORM
        case other:
            raise SgxCode.PCK_ISSUER_NOT_PCK_CA.error(
                f"The PCK certificate has an invalid issuer: expected the Processor or Platform CA, got {other!r}."
            )
