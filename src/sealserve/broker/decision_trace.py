"""The facts about a request that its audit row contains."""

from dataclasses import dataclass
from datetime import datetime

from sealserve.attestation.claims import Claims
from sealserve.attestation.evidence import EndorsedEvidence, Evidence
from sealserve.broker.appraised import Appraised
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.releases import Release
from sealserve.broker.stage_times import RequestTimes
from sealserve.terms import PlatformKind


@dataclass(slots=True)
class Trace:
    """The facts known so far about a request, for its audit row."""

    peer: str
    times: RequestTimes
    broker: str | None = None
    platform: PlatformKind | None = None
    release: Release | None = None
    quote_digest: str | None = None
    public_key_digest: bytes = b""
    evidence: Evidence | None = None
    endorsed: EndorsedEvidence | None = None
    claims: Claims | None = None
    series: str = ""

    def reset(self) -> None:
        """Remove the facts from an appraisal, because another appraisal follows."""
        self.release = self.platform = self.endorsed = self.claims = None
        self.series = ""

    def result(self, time: datetime, release: Release, claims: Claims) -> Appraised:
        """Return the result of an appraisal that succeeded.

        Args:
            time: The time of the decision.
            release: The release, with the policy that the claims satisfy.
            claims: The claims from the evidence.
        """
        assert self.quote_digest is not None  # noqa: S101  # the decision sets it before it appraises
        return Appraised(
            time=time,
            release=release,
            claims=claims,
            quote_digest=self.quote_digest,
            public_key_digest=self.public_key_digest,
        )

    def entry(self, time: datetime, decision: Decision, code: str, detail: str = "") -> Entry:
        """Return the audit row of a decision about this request."""
        return Entry(
            time=time,
            peer=self.peer,
            decision=decision,
            code=code,
            detail=detail,
            release_id=self.release.release_id if self.release else None,
            platform=self.platform,
            mr_enclave=self.evidence.measurement.hex() if self.evidence else None,
            mr_signer=self.evidence.signer.hex() if self.evidence else None,
            platform_id=self.claims.platform_id if self.claims else None,
            tcb_status=self.claims.tcb_status if self.claims else None,
            advisories=",".join(sorted(self.claims.advisory_ids)) if self.claims else None,
            quote_digest=self.quote_digest,
            claims=self.claims.facts() if self.claims else {},
            broker=self.broker,
        )
