"""Trials of a policy: which platforms would the broker refuse, according to the keys that it released before?

A trial runs the broker's own checks on the facts in the audit log. A fact that an old row lacks makes the result
unknown, and never an acceptance.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Any

from sealserve.attestation.policy import AppraisalPolicy, checks
from sealserve.broker import audit, platforms, releases
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.policy_trials import Problem, Trial, Verdict
from sealserve.broker.releases import Reference, Release
from sealserve.broker.standing import check_standing
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError, VerificationError
from sealserve.owner.attestation import open_client, trust_anchors
from sealserve.owner.owner import Owner
from sealserve.owner.policies import FoundPolicy
from sealserve.owner.recorded_facts import MissingFactError, RecordedFacts
from sealserve.sgx.collateral_requests import Document, Kind
from sealserve.sgx.pcs import PcsClient
from sealserve.sgx.pcs_responses import Signed
from sealserve.terms import CollateralUpdate, PlatformKind
from sealserve.workspace import Workspace

_Documents = tuple[Signed, Signed]


def run(
    workspace: Workspace,
    deployment: Deployment,
    policy: FoundPolicy | None,
    *,
    now: datetime,
    since: datetime | None = None,
    early: bool = False,
) -> list[Trial]:
    """Try a policy with the facts of the newest released key of each platform and release.

    Releases whose key the broker no longer releases are omitted.

    Args:
        workspace: The owner's workspace.
        deployment: Supplies the collateral service.
        policy: The policy to try. `None` means the registered policy of each release.
        now: The time at which the platforms ask for a key again.
        since: Ignore keys that were released before this time.
        early: Download the collateral of the early update channel, and check the TCB status that results from it.

    Returns:
        The results, in the order of kind, platform and release.

    Raises:
        SealserveError: The audit log cannot be read or does not verify, or the collateral service is unavailable.
    """
    # 1. Find the newest released key of each platform and release.
    with Owner.open(workspace).database() as database, database.read() as connection:
        served: dict[str, Release] = {
            item.release_id: item for item in releases.every(connection) if _is_served(item, now)
        }
        newest: dict[tuple[str, str, str], Entry] = {}
        audit.verify_chain(connection)  # another program could otherwise hide who would be refused
        for row in audit.rows(connection):
            entry = row.entry
            if entry.decision is not Decision.RELEASED or (since is not None and entry.time < since):
                continue
            if entry.platform and entry.platform_id and entry.release_id in served:
                newest[entry.platform, entry.platform_id, entry.release_id] = entry
        enrolled = {kind: platforms.enrolled(connection, kind) for kind in PlatformKind}
        references = {name: releases.references_of(connection, item.release_id) for name, item in served.items()}
    # 2. Run the checks of the policy on the facts of each of these keys, and then compare the enclave with the
    #    registered reference values, as the broker does.
    with contextlib.ExitStack() as stack:
        published = _EarlyDocuments(workspace, deployment, stack) if early else None
        results = []
        for (kind, platform_id, release_id), entry in sorted(newest.items()):
            release, platform = served[release_id], PlatformKind(kind)
            chosen = release.policy if policy is None else policy.for_platform(platform)
            facts = RecordedFacts(entry, now=now)
            problems = list(_rate_again(facts, platform, published))
            problems += [] if problems else _problems(facts, chosen, enrolled=enrolled[platform])
            problems += [] if problems else _reference_problems(facts, references[release.release_id])
            results.append(
                Trial(
                    platform=platform,
                    platform_id=platform_id,
                    release=release.name,
                    policy=chosen.tcb.name,
                    verdict=_verdict(problems),
                    tcb_status=_known(facts, "tcb_status"),
                    evaluation_number=_known(facts, "tcb_evaluation_data_number"),
                    released=entry.time,
                    problems=tuple(problems),
                )
            )
    return results


class _EarlyDocuments:
    """The documents of the early update channel. Each document is downloaded once."""

    def __init__(self, workspace: Workspace, deployment: Deployment, stack: contextlib.ExitStack) -> None:
        self._anchors = trust_anchors(workspace)
        self._open: Callable[[PlatformKind], PcsClient] = lambda kind: stack.enter_context(
            open_client(workspace, deployment, kind, self._anchors[kind], store=False)
        )
        self._clients: dict[PlatformKind, PcsClient] = {}
        self._found: dict[tuple[PlatformKind, Document], Signed] = {}

    def of(self, platform: PlatformKind, fmspc: str) -> _Documents:
        """Return TCB info and QE identity for a kind of processor. Their signatures are verified."""
        early = CollateralUpdate.EARLY
        return (
            self._document(platform, Document(Kind.TCB_INFO, fmspc, early)),
            self._document(platform, Document(Kind.QE_IDENTITY, update=early)),
        )

    def _document(self, platform: PlatformKind, document: Document) -> Signed:
        if platform not in self._clients:
            self._clients[platform] = self._open(platform)
        if (platform, document) not in self._found:
            found = self._clients[platform].refresh(document)
            assert isinstance(found, Signed)  # noqa: S101  # by its kind
            self._found[platform, document] = found
        return self._found[platform, document]


def _rate_again(facts: RecordedFacts, platform: PlatformKind, published: _EarlyDocuments | None) -> Iterator[Problem]:
    """Replace the TCB rating in the facts by the rating of the early documents. Yield a problem if it fails."""
    if published is None:
        return
    try:
        tcb_info, qe_identity = published.of(platform, facts.fmspc)
        facts.rate_again(tcb_info, qe_identity)
    except MissingFactError as error:
        yield Problem(code=None, message=str(error))
    except VerificationError as error:  # for example, the security versions are below each level
        yield Problem(code=error.code, message=error.message)


def _problems(facts: RecordedFacts, policy: AppraisalPolicy, *, enrolled: Collection[str]) -> Iterator[Problem]:
    for check in checks(facts, policy, enrolled=enrolled):
        try:
            check()
        except MissingFactError as error:
            yield Problem(code=None, message=str(error))
        except SealserveError as error:
            yield Problem(code=error.code, message=error.message)


def _reference_problems(facts: RecordedFacts, references: Collection[Reference]) -> Iterator[Problem]:
    try:
        facts.check_reference({item.measurement: item.values for item in references})
    except MissingFactError as error:
        yield Problem(code=None, message=str(error))
    except SealserveError as error:
        yield Problem(code=error.code, message=error.message)


def _verdict(problems: list[Problem]) -> Verdict:
    if any(problem.code is not None for problem in problems):
        return Verdict.REFUSED
    return Verdict.UNKNOWN if problems else Verdict.ACCEPTED


def _known(facts: RecordedFacts, name: str) -> Any:
    try:
        return getattr(facts, name)
    except MissingFactError:
        return None


def _is_served(release: Release, now: datetime) -> bool:
    try:
        check_standing(release.state, release.deadline, now)
    except VerificationError:
        return False
    return True
