"""What is wrong with a manifest: findings with line, setting and reason, and the errors that refuse them.

A finding that makes the enclave insecure has a class, and the option ``--dangerous-CLASS`` allows that class. A finding
without a class cannot be allowed: the manifest would make no working enclave.
"""

import copy
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.toml_lines import Path

LOGGER: Final = logging.getLogger(__name__)
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_MOST_SHOWN: Final = 40  # of the findings in one message: a manifest may have thousands of trusted files


class Danger(StrEnum):
    """A class of what makes a manifest insecure; ``--dangerous-NAME`` allows it."""

    DEBUG = "debug"
    HOST_INPUT = "host-input"
    HOST_FILES = "host-files"
    HOST_DEVICES = "host-devices"
    MANIFEST_KEYS = "manifest-keys"
    LOG = "log"
    ENVIRONMENT = "environment"
    INSECURE_SETTINGS = "insecure-settings"
    OTHER_PROGRAM = "other-program"
    SERVER_FLAGS = "server-flags"

    @property
    def meaning(self) -> str:
        """What is allowed."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Danger.DEBUG: "debugging, statistics and profiling: the host reads the enclave's memory",
    Danger.HOST_INPUT: "arguments or environment from the host",
    Danger.HOST_FILES: "files of the host that are not measured",
    Danger.HOST_DEVICES: "devices and memory shared with the host",
    Danger.MANIFEST_KEYS: "keys of encrypted files in the manifest, which the host reads",
    Danger.LOG: "a log with more than errors, which the host reads",
    Danger.ENVIRONMENT: "environment variables whose effect sealserve does not know",
    Danger.INSECURE_SETTINGS: "other settings that Gramine calls insecure or experimental",
    Danger.OTHER_PROGRAM: "a program that is not a model server of sealserve; its arguments are not checked",
    Danger.SERVER_FLAGS: "a model server with plaintext, profiler, polling, files that are not sealed, or one-way TLS "
    "where more is needed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """Something in a manifest that sealserve refuses.

    Args:
        line: Where it is, from 1. If a setting is missing: the line of the table that should have it.
        setting: The setting's dotted name, or the server's flag.
        reason: Why it is refused.
        danger: The class that allows it; None if nothing does.
        path: The keys to the setting, or None if it is missing or is only a part of a value.
        code: The error that refuses it, if it is the first that is refused and no finding has a class.
    """

    line: int
    setting: str
    reason: str
    danger: Danger | None
    path: Path | None = None
    code: EnclaveCode = EnclaveCode.MANIFEST_INSECURE

    def __str__(self) -> str:
        if self.code is EnclaveCode.MANIFEST_MISSING_SETTING:
            return f"it lacks the setting {self.setting}"
        if self.code is EnclaveCode.MANIFEST_UNKNOWN_SETTING:
            return f"line {self.line}: it has the setting {self.setting}, which {self.reason}"
        option = f" (--dangerous-{self.danger})" if self.danger else ""
        return f"line {self.line}: {self.setting}: {self.reason}{option}"


def dotted(path: Path) -> str:
    """Return a setting's name for people. A key that TOML would quote is quoted: it may hold line breaks."""
    return ".".join(str(part) if _PLAIN_KEY.fullmatch(str(part)) else repr(part) for part in path)


def refuse(findings: Collection[LintFinding], allowed: Collection[Danger], *, name: str) -> None:
    """Refuse findings, unless their class is allowed; what is allowed is warned of.

    Raises:
        VerificationError: `manifest.insecure`: There is one of a class that is not allowed.
        VerificationError: `manifest.missing-setting`: There are only findings that nothing allows; a missing setting is
            the first.
        VerificationError: `manifest.unknown-setting`: The same; an unknown setting is the first.
        VerificationError: `manifest.invalid-setting`: The same; a value that is not accepted is the first.
    """
    refused = sorted(
        (finding for finding in findings if finding.danger not in allowed), key=lambda finding: finding.danger is None
    )
    if refused:
        shown = "; ".join(map(str, refused[:_MOST_SHOWN]))
        more = f"; and {len(refused) - _MOST_SHOWN} more" if len(refused) > _MOST_SHOWN else ""
        if any(finding.danger for finding in refused):
            raise EnclaveCode.MANIFEST_INSECURE.error(
                f"{name} is insecure: {shown}{more}.",
                hint="Correct these settings. The option behind a finding allows its class; then the enclave does not "
                "protect what that class is about.",
            )
        raise refused[0].code.error(
            f"{name} is not accepted: {shown}{more}.", hint="Begin with what `sealserve enclave manifest` prints."
        )
    for finding in findings:
        LOGGER.warning("dangerous: %s, %s", name, finding)


def without(data: Mapping[str, Any], findings: Collection[LintFinding]) -> dict[str, Any]:
    """Return a manifest's content without the insecure settings, and with a safe value where one is needed."""
    rest = copy.deepcopy(dict(data))
    paths = (finding.path for finding in findings if finding.path and finding.danger)
    for path in sorted(paths, key=_deepest_last_first):
        _take_out(rest, path)
    refused = {finding.setting.partition(" ")[0] for finding in findings}
    for table, key, safe in (("fs", "root", {"type": "tmpfs"}), ("sgx", "debug", False)):
        if f"{table}.{key}" in refused and isinstance(rest.get(table), dict):
            rest[table].setdefault(key, safe)
    return rest


def _deepest_last_first(path: Path) -> list[tuple[int, int | str]]:
    return [(-part, "") if isinstance(part, int) else (0, part) for part in path]


def _take_out(data: Any, path: Path) -> None:
    *above, last = path
    parent = data
    try:
        for part in above:
            parent = parent[part]
        del parent[last]
    except (KeyError, IndexError):
        return  # it went with something around it
    if above and not parent and isinstance(parent, list):
        _take_out(data, tuple(above))
