"""The JSON documents of the operations on appraisal policies."""

from typing import Annotated, Any, Final, Self

from pydantic import AwareDatetime, Field

from sealserve.attestation.policy import AppraisalPolicy
from sealserve.broker.administration.documents import (
    RELEASE_PATTERN,
    ReplyDocument,
    RequestDocument,
    json_document,
    json_text,
)
from sealserve.broker.administration.interface import NamedPolicy
from sealserve.broker.administration.log_documents import Since
from sealserve.broker.policy_trials import Problem, Trial, Verdict
from sealserve.terms import PlatformKind

LARGEST_POLICY: Final = 32 * 1024
"""The maximum size of a policy file in a request, in characters. In JSON, a character takes up to 6 bytes."""

_PolicyName = Annotated[str, Field(pattern=RELEASE_PATTERN)]


class PolicyQuery(RequestDocument):
    """The policy to return."""

    name: _PolicyName | None = None
    """A preset, or a registered release. By default, the policy of the broker's sealserve.toml."""


class PolicyReply(ReplyDocument):
    """A policy, and the kind of platform that it applies to."""

    platform: PlatformKind
    policy: dict[str, Any]
    """The rules, in the format of the broker's database."""

    @classmethod
    def of(cls, named: NamedPolicy) -> Self:
        """Convert a policy."""
        return cls(platform=named.platform, policy=json_document(named.policy.to_json()))

    def value(self) -> NamedPolicy:
        """Return the policy that the document describes."""
        return NamedPolicy(policy=AppraisalPolicy.from_json(json_text(self.policy)), platform=self.platform)


class TryPolicyRequest(RequestDocument):
    """The policy to try with the facts of released keys."""

    name: _PolicyName | None = None
    """A preset, or a registered release. By default, the registered policy of each release."""
    file: Annotated[str, Field(min_length=1, max_length=LARGEST_POLICY)] | None = None
    """The content of a policy file. It replaces ``name``."""
    since: Since = None
    """Use only keys that were released at this time or later."""
    early: Annotated[bool, Field(strict=True)] = False
    """Use the TCB status of the vendor's early update channel."""


class ProblemOfTrialReply(ReplyDocument):
    """A rule that is not satisfied, or that cannot be checked."""

    code: str | None
    """The code of the error that the broker would report. Null if a fact is missing."""
    message: str


class TrialReply(ReplyDocument):
    """The result for one platform and one release."""

    platform: PlatformKind
    platform_id: str
    release: str
    policy: str
    """The name of the policy."""
    verdict: Verdict
    tcb_status: str | None
    evaluation_number: int | None
    released: AwareDatetime
    """The time of the newest released key, whose facts were used."""
    problems: list[ProblemOfTrialReply]

    @classmethod
    def of(cls, trial: Trial) -> Self:
        """Convert a result."""
        plain = {name: getattr(trial, name) for name in cls.model_fields if name != "problems"}
        problems = [ProblemOfTrialReply(code=item.code, message=item.message) for item in trial.problems]
        return cls(**plain, problems=problems)

    def value(self) -> Trial:
        """Return the result that the document describes."""
        plain = {name: getattr(self, name) for name in type(self).model_fields if name != "problems"}
        problems = tuple(Problem(code=item.code, message=item.message) for item in self.problems)
        return Trial(**plain, problems=problems)


class TrialsReply(ReplyDocument):
    """The results, in the order of kind, platform and release."""

    trials: list[TrialReply]
