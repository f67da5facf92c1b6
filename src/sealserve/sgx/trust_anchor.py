"""The trusted root certificate for quotes and collateral: Intel's root, or the root of a simulated vendor.

The genuine anchor is exactly Intel's root and cannot be configured. A simulated root and all certificates
below it have names that contain "simulated". Therefore neither kind of evidence is accepted as the other kind.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.sgx.certificate_chain import common_name
from sealserve.sgx.codes import SgxCode
from sealserve.x509_errors import X509_ERRORS

# Source: https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer
_INTEL_ROOT: Final = b"""\
-----BEGIN CERTIFICATE-----
MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIw
aDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENv
cnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJ
BgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgG
A1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0
aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT
AlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi7
1OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOB
uzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJ
MEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50
ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SV
Ur9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYI
KoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwg
AiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI=
-----END CERTIFICATE-----
"""
INTEL_ROOT_SHA256: Final = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorNames:
    """The common names in a vendor's certificates."""

    root: str
    processor_ca: str
    platform_ca: str
    pck: str
    tcb_signing: str


INTEL: Final = VendorNames(
    root="Intel SGX Root CA",
    processor_ca="Intel SGX PCK Processor CA",
    platform_ca="Intel SGX PCK Platform CA",
    pck="Intel SGX PCK Certificate",
    tcb_signing="Intel SGX TCB Signing",
)
SIMULATED: Final = VendorNames(
    root="SGX Root CA (simulated)",
    processor_ca="SGX PCK Processor CA (simulated)",
    platform_ca="SGX PCK Platform CA (simulated)",
    pck="SGX PCK Certificate (simulated)",
    tcb_signing="SGX TCB Signing (simulated)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchor:
    """A root certificate and its kind.

    Args:
        root_der: The root certificate, DER.
        simulated: Whether the root belongs to a simulated vendor. `False` accepts only Intel's root.

    Raises:
        InputError: `trust-anchor.invalid` if it is not a self-signed certificate of that kind.
    """

    root_der: bytes
    simulated: bool

    def __post_init__(self) -> None:
        try:
            root = x509.load_der_x509_certificate(self.root_der)
            root.verify_directly_issued_by(root)
            found = common_name(root)
        except (*X509_ERRORS, InvalidSignature) as error:
            raise SgxCode.TRUST_ANCHOR_INVALID.error(
                "The trust anchor is invalid: expected a self-signed X.509 certificate in DER."
            ) from error
        if not self.simulated and self.fingerprint != INTEL_ROOT_SHA256:
            raise SgxCode.TRUST_ANCHOR_INVALID.error(
                f"The trust anchor is not Intel's SGX root certificate: expected SHA-256 {INTEL_ROOT_SHA256}, "
                f"got {self.fingerprint} ({found!r}).",
                hint="Remove the configured root. SGX releases are verified with Intel's built-in root.",
            )
        if self.simulated and found != SIMULATED.root:
            raise SgxCode.TRUST_ANCHOR_INVALID.error(
                f"The trust anchor is not the root of a simulated vendor: expected {SIMULATED.root!r}, got {found!r}.",
                hint="Use the file root.der in the folder of the simulated vendor.",
            )

    @classmethod
    def intel(cls) -> Self:
        """Return Intel's root, the only trust anchor for production."""
        root = x509.load_pem_x509_certificate(_INTEL_ROOT)
        return cls(root_der=root.public_bytes(Encoding.DER), simulated=False)

    @property
    def names(self) -> VendorNames:
        """The required common names of certificates below this root."""
        return SIMULATED if self.simulated else INTEL

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root certificate, as hex."""
        return hashlib.sha256(self.root_der).hexdigest()

    @property
    def certificate(self) -> x509.Certificate:
        """The root certificate."""
        return x509.load_der_x509_certificate(self.root_der)
