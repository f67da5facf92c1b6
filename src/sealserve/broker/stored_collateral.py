"""A document of collateral that the broker stored. `sealserve.owner.collateral` lists and refreshes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sealserve.terms import CollateralUpdate, PlatformKind


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """One stored document of collateral.

    Args:
        platform: The kind of platform that it is for.
        document: The kind of document: ``TCB info``, ``QE identity``, ``PCK CRL`` or ``Root CRL``.
        subject: The FMSPC of TCB info, or the CA of a PCK CRL. `None` for the documents for all platforms.
        update: The update channel. Revocation lists have only ``standard``.
        evaluation_number: The TCB evaluation data number. `None` for revocation lists.
        issued: The issue date.
        valid_until: The next-update time, after which the document is expired.
        fetched: The time of the download.
        url: The URL of the download.
    """

    platform: PlatformKind
    document: str
    subject: str | None
    update: CollateralUpdate
    evaluation_number: int | None
    issued: datetime
    valid_until: datetime
    fetched: datetime
    url: str

    def floor(self, floors: Mapping[str, int]) -> int | None:
        """Return the highest number that the broker accepted before, of this platform and channel.

        Args:
            floors: The floors by platform and channel, from `sealserve.broker.admin.status`.

        Returns:
            The floor, 0 if the broker has not accepted a number yet, or `None` for revocation lists.
        """
        if self.evaluation_number is None:
            return None
        channel = "" if self.update is CollateralUpdate.STANDARD else f"-{self.update}"
        return floors.get(f"{self.platform.value}{channel}", 0)
