"""The appraisal policies of an owner: presets, policy files, and the policies of registered releases."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sealserve.attestation import policy_file
from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.policy_file import PolicyFile, RulesParser
from sealserve.attestation.presets import PRESETS, RESERVED
from sealserve.broker import admin
from sealserve.broker.releases import ReleaseUnknownError
from sealserve.deployment import Deployment
from sealserve.owner.codes import OwnerCode
from sealserve.owner.owner import Owner
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.sgx import policy_rules
from sealserve.terms import Approval, PlatformKind
from sealserve.workspace import Workspace

EVIDENCE: Final[Mapping[str, RulesParser]] = {policy_rules.TABLE: policy_rules.parse_table}
"""The tables of a policy file for kinds of evidence, with their parsers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPolicy:
    """A policy that the owner named.

    Args:
        policy: The policy.
        platform: The kind of platform that it applies to.
        file: The policy file. `None` for the policy of a registered release.
    """

    policy: AppraisalPolicy
    platform: PlatformKind
    file: PolicyFile | None

    @property
    def simulated(self) -> bool:
        """Whether the policy applies to simulated platforms."""
        return self.platform is PlatformKind.SIMULATED

    def for_platform(self, platform: PlatformKind) -> AppraisalPolicy:
        """Return the policy for another kind of platform, if it comes from a file."""
        return self.policy if self.file is None else self.file.for_platform(platform)


def read_file(path: Path) -> PolicyFile:
    """Read a policy file.

    Raises:
        InputError: `policy.file` if the file is invalid, `input-file.missing` if it does not exist.
    """
    return parse_file(read_regular(path, limit=policy_file.LARGEST_FILE), source=str(path))


def parse_file(content: bytes, *, source: str) -> PolicyFile:
    """Parse the content of a policy file. ``source`` is its name in messages.

    Raises:
        InputError: `policy.file` if the content is invalid.
    """
    return policy_file.parse(content, file=source, evidence=EVIDENCE, reserved=RESERVED)


def of_deployment(deployment: Deployment) -> PolicyFile:
    """Return the policy of ``sealserve.toml``: ``tcb.policy_file`` or ``tcb.preset``, and ``broker.approval``.

    Raises:
        InputError: `policy.file` if the policy file is invalid, or does not exist.
    """
    if (path := deployment.tcb.policy_file) is None:
        return _with_approval(PRESETS[deployment.tcb.preset], deployment)
    try:
        return _with_approval(read_file(path), deployment)
    except InputFileMissingError as error:
        raise OwnerCode.POLICY_UNKNOWN.error(
            f"The policy file {path} of tcb.policy_file does not exist.", hint="Correct tcb.policy_file."
        ) from error


def _with_approval(file: PolicyFile, deployment: Deployment) -> PolicyFile:
    manual = deployment.broker.approval is Approval.MANUAL
    return replace(file, rules=replace(file.rules, manual_approval=manual))


def of_content(raw: bytes, deployment: Deployment, *, source: str) -> FoundPolicy:
    """Return the policy in the content of a policy file.

    Args:
        raw: The content.
        deployment: Supplies the kind of platform.
        source: The name of the file in messages.

    Raises:
        InputError: `policy.file` if the content is invalid.
    """
    file = parse_file(raw, source=source)
    return FoundPolicy(policy=file.for_platform(deployment.platform), platform=deployment.platform, file=file)


def find(workspace: Workspace, deployment: Deployment, name: str | None, *, files: bool = True) -> FoundPolicy:
    """Return a policy by the name of a preset, the path of a policy file, or the name or id of a registered release.

    Args:
        workspace: The owner's workspace.
        deployment: Supplies the kind of platform, and the policy if ``name`` is `None`.
        name: The name. `None` means the policy that the deployment chooses.
        files: Whether ``name`` may be the path of a file.

    Raises:
        InputError: `policy.unknown` if nothing has this name, `policy.file` if the file is invalid.
    """
    platform = deployment.platform
    if name is None or name in PRESETS or (files and Path(name).is_file()):
        file = of_deployment(deployment) if name is None else PRESETS.get(name) or read_file(Path(name))
        return FoundPolicy(policy=file.for_platform(platform), platform=platform, file=file)
    with Owner.open(workspace).database() as database:
        try:
            release = admin.find_release(database, name).release
        except ReleaseUnknownError as error:
            raise OwnerCode.POLICY_UNKNOWN.error(
                f"The policy {name!r} is unknown: expected a preset ({', '.join(PRESETS)}), a policy file, or a "
                "registered release.",
                hint="Run `sealserve broker releases` to list the registered releases.",
            ) from error
    return FoundPolicy(policy=release.policy, platform=release.platform, file=None)
