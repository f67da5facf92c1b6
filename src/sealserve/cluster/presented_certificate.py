"""The validity of the certificate that a replica presents to users."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedCertificate:
    """The validity of a certificate.

    Args:
        issued: The time of issue, UTC.
        ends: The end of the validity, UTC.
    """

    issued: datetime
    ends: datetime

    def is_late(self, now: datetime) -> bool:
        """Return whether its renewal failed: an enclave renews its certificate after two thirds of the lifetime.

        The certificate itself states the lifetime. The setting may have changed since its issue.
        """
        return self.ends - now < (self.ends - self.issued) / 4
