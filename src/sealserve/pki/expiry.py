"""Which certificates and documents end soon, and what renews them. The decision is made here alone.

`status`, `up` and `doctor` warn by it; the alert rules for Prometheus use the same number of days.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

WARNING_PERIOD: Final = timedelta(days=14)
"""How long before its end a certificate is warned about."""

SERVICE: Final = "service"
"""The service's own certificate: each release has its own, whose key exists in its enclaves only."""

BROKER: Final = "broker"
USER: Final = "user"
NAMED_USER: Final = f"{USER} "
"""The beginning of the names of the certificates of named users."""

AUTHORITY: Final = " authority"
"""The end of the names of the authorities' certificates."""

COLLATERAL: Final = "collateral"
"""The beginning of the names of the vendor's documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of a certificate, or of a document of the vendor's collateral.

    Args:
        name: What it is for: ``service``, ``broker``, ``user``, ``user ann``, ``service authority``, ....
        time: When it ends, UTC.
    """

    name: str
    time: datetime

    def is_over(self, now: datetime) -> bool:
        """Return whether it has ended."""
        return now > self.time

    def is_near(self, now: datetime) -> bool:
        """Return whether it ends within the warning period, or has ended."""
        return self.time - now < WARNING_PERIOD

    def warning(self, now: datetime) -> str:
        """Return a sentence on its end, and what to do about it."""
        return f"{self.sentence(now)} {remedy(self.name)}"

    def sentence(self, now: datetime) -> str:
        """Return a sentence on its end."""
        what = self.name if self.name.startswith(COLLATERAL) else f"The certificate of the {self.name}"
        moment = f"{self.time:%Y-%m-%d %H:%M} UTC"
        verb = f"ended at {moment}" if self.is_over(now) else f"ends in {_span(self.time - now)}, at {moment}"
        return f"{what} {verb}."


def endings(ends: Mapping[str, datetime]) -> Sequence[Ending]:
    """Return the ends of certificates in the order in which they come."""
    return sorted((Ending(name=name, time=time) for name, time in ends.items()), key=lambda end: (end.time, end.name))


def warnings(ends: Mapping[str, datetime], now: datetime) -> Sequence[str]:
    """Return a warning for each certificate that ends within the warning period, the earliest first."""
    return [end.warning(now) for end in endings(ends) if end.is_near(now)]


def remedy(name: str) -> str:
    """Return what renews a certificate."""
    if name == SERVICE:
        return "Each release has its own: run `sealserve release build`, then `sealserve up`."
    if name.startswith(NAMED_USER):
        who = name.removeprefix(NAMED_USER)
        return (
            f"Run `sealserve user renew {who}` and send a new bundle (`sealserve client bundle --for {who}`), or "
            f"`sealserve user revoke {who}`."
        )
    if name.endswith(AUTHORITY):
        return (
            "Replace it: move its folder out of .sealserve/owner/authorities, run `sealserve certs two-way` (or "
            "`one-way`), then build and start a new release, and give the folder user/ to the users."
        )
    if name == BROKER:
        return "Run `sealserve certs renew`, then restart the broker: it reads its certificate when it starts."
    if name.startswith(COLLATERAL):
        return "The service at broker.collateral_url has no newer one: check that it is refreshed."
    return "Run `sealserve certs renew`, and give the new files to the users."


def _span(left: timedelta) -> str:
    """Return a duration in the largest unit that is not zero."""
    for unit, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (count := int(left.total_seconds() // seconds)) > 0:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
