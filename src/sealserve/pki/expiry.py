"""Which certificates and collateral documents expire soon, and how to renew them. This is the only such decision.

`status`, `up` and `doctor` print these warnings. The Prometheus alert rules use the same number of days.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

WARNING_PERIOD: Final = timedelta(days=14)
"""How long before its expiry a certificate produces a warning."""

SERVICE: Final = "service"
"""The service's certificate. Each release has its own, and its private key exists only in the release's enclaves."""

ENCLAVES: Final = "enclaves"
"""The certificate that an enclave with its own TLS key renews itself. It is listed only if the renewals fail."""

BROKER: Final = "broker"
USER: Final = "user"
NAMED_USER: Final = f"{USER} "
"""The prefix of the names of named users' certificates."""

ADMINISTRATOR: Final = "administrator "
"""The prefix of the names of administrators' certificates."""

AUTHORITY: Final = " authority"
"""The suffix of the names of CA certificates."""

ADMINISTRATORS_AUTHORITY: Final = f"administrators{AUTHORITY}"
"""The CA of the broker's administrators."""

ISSUING: Final = f"issuing{AUTHORITY}"
"""The CA with which the broker issues certificates to enclaves with their own TLS key."""

_AUTHORITY_REMEDY: Final = (
    "Replace the authority: move its folder out of .sealserve/owner/authorities, run `sealserve certs two-way` "
    "(or `one-way`). Then build and start a new release, and send the folder user/ to the users."
)

COLLATERAL: Final = "collateral"
"""The prefix of the names of the vendor's collateral documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The expiry of a certificate or of a collateral document.

    Args:
        name: The subject of the expiry: ``service``, ``broker``, ``user``, ``user ann``, ``service authority``, ....
        time: The time of the expiry, UTC.
    """

    name: str
    time: datetime

    def is_over(self, now: datetime) -> bool:
        """Return whether the expiry time has passed."""
        return now > self.time

    def is_near(self, now: datetime) -> bool:
        """Return whether the expiry time is within the warning period or has passed."""
        return self.time - now < WARNING_PERIOD

    @property
    def is_of_administration(self) -> bool:
        """Return whether only remote administration depends on the certificate, and not the service."""
        return self.name == ADMINISTRATORS_AUTHORITY or self.name.startswith(ADMINISTRATOR)

    def warning(self, now: datetime) -> str:
        """Return a sentence about the expiry, followed by the remedy."""
        return f"{self.sentence(now)} {remedy(self.name)}"

    def sentence(self, now: datetime) -> str:
        """Return a sentence about the expiry."""
        what = self.name if self.name.startswith(COLLATERAL) else f"The certificate of the {self.name}"
        moment = f"{self.time:%Y-%m-%d %H:%M} UTC"
        verb = f"expired at {moment}" if self.is_over(now) else f"expires in {_span(self.time - now)}, at {moment}"
        return f"{what} {verb}."


def endings(ends: Mapping[str, datetime]) -> Sequence[Ending]:
    """Return the expiry times sorted, the earliest first."""
    return sorted((Ending(name=name, time=time) for name, time in ends.items()), key=lambda end: (end.time, end.name))


def warnings(ends: Mapping[str, datetime], now: datetime) -> Sequence[str]:
    """Return a warning for each expiry within the warning period, the earliest first."""
    return [end.warning(now) for end in endings(ends) if end.is_near(now)]


_REMEDIES: Final = {
    SERVICE: "Each release has its own certificate. Run `sealserve release build`, then `sealserve up`. If service."
    "tls_certificate_file is set, first replace the files.",
    ENCLAVES: "The enclaves fail to renew it. Check that the broker runs and that the release is allowed, and read "
    "`sealserve logs` (step=renewal-failed).",
    ISSUING: "Run `sealserve certs rotate-issuing`. A running broker uses the new authority without a restart.",
}


def remedy(name: str) -> str:
    """Return how to renew a certificate or document, as an instruction."""
    if name in _REMEDIES:
        return _REMEDIES[name]
    if name.startswith(NAMED_USER):
        who = name.removeprefix(NAMED_USER)
        return (
            f"Run `sealserve user renew {who}` and send a new bundle (`sealserve client bundle --for {who}`), or "
            f"run `sealserve user revoke {who}`."
        )
    if name == ADMINISTRATORS_AUTHORITY or name.startswith(ADMINISTRATOR):
        return _remedy_of_administration(name)
    if name.endswith(AUTHORITY):
        return _AUTHORITY_REMEDY
    if name.startswith(COLLATERAL):
        return (
            "The service at broker.collateral_url does not have a newer document. Check that the service is refreshed."
        )
    if name == BROKER:
        then = ". A running broker uses the new certificate without a restart."
    else:
        then = ", and send the new files to the users."
    return f"Run `sealserve certs renew`{then}"


def _remedy_of_administration(name: str) -> str:
    if name == ADMINISTRATORS_AUTHORITY:
        return (
            "Replace the authority: move the folders administrators and administrators-authority out of "
            ".sealserve/owner, and run `sealserve broker admin issue` for each administrator."
        )
    who = name.removeprefix(ADMINISTRATOR)
    return (
        f"Run `sealserve broker admin issue {who}` with the role of {who} and send the new file, or run "
        f"`sealserve broker admin revoke {who}`."
    )


def _span(left: timedelta) -> str:
    """Return a duration in the largest unit that is not zero."""
    for unit, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (count := int(left.total_seconds() // seconds)) > 0:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
