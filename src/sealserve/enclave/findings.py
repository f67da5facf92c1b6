"""Findings in a manifest, with line, setting and reason, and the errors that reject them.

A finding that makes the enclave insecure has a class, and the option ``--dangerous-CLASS`` allows that class. A finding
without a class cannot be allowed, because the enclave would not work.
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
_MOST_SHOWN: Final = 40  # findings in one message: a manifest may have thousands of trusted files


class Danger(StrEnum):
    """A class of insecure settings in a manifest; ``--dangerous-NAME`` allows the class."""

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
        """Description of the settings that this class allows."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Danger.DEBUG: "debugging, statistics and profiling, with which the host can read the enclave's memory",
    Danger.HOST_INPUT: "arguments or environment from the host",
    Danger.HOST_FILES: "files of the host that are not measured",
    Danger.HOST_DEVICES: "devices and memory shared with the host",
    Danger.MANIFEST_KEYS: "keys of encrypted files in the manifest, which the host can read",
    Danger.LOG: "log messages other than errors, which the host can read",
    Danger.ENVIRONMENT: "environment variables whose effect sealserve cannot check",
    Danger.INSECURE_SETTINGS: "other settings that Gramine calls insecure or experimental",
    Danger.OTHER_PROGRAM: "a program that is not a model server of sealserve; its arguments are not checked",
    Danger.SERVER_FLAGS: "a model server with plaintext, profiler, polling, files that are not sealed, or one-way TLS "
    "where two-way TLS is required",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """A part of a manifest that sealserve rejects.

    Args:
        line: Its line, from 1. If a setting is missing: the line of the table that should contain the setting.
        setting: The setting's dotted name, or the server's flag.
        reason: Why it is rejected.
        danger: The class that allows it; None if no option allows it.
        path: The keys to the setting, or None if it is missing or is only a part of a value.
        code: The code of the error, if this is the first rejected finding and no rejected finding has a class.
    """

    line: int
    setting: str
    reason: str
    danger: Danger | None
    path: Path | None = None
    code: EnclaveCode = EnclaveCode.MANIFEST_INSECURE

    def __str__(self) -> str:
        if self.code is EnclaveCode.MANIFEST_MISSING_SETTING:
            return f"the setting {self.setting} is missing"
        if self.code is EnclaveCode.MANIFEST_UNKNOWN_SETTING:
            return f"line {self.line}: the setting {self.setting} {self.reason}"
        option = f" (--dangerous-{self.danger})" if self.danger else ""
        return f"line {self.line}: {self.setting}: {self.reason}{option}"


def dotted(path: Path) -> str:
    """Return a setting's name for messages. A key that TOML would quote is quoted, since it may hold line breaks."""
    return ".".join(str(part) if _PLAIN_KEY.fullmatch(str(part)) else repr(part) for part in path)


def refuse(findings: Collection[LintFinding], allowed: Collection[Danger], *, name: str) -> None:
    """Raise an error for findings whose class is not allowed, and log a warning for each allowed finding.

    Raises:
        VerificationError: `manifest.insecure`: A finding has a class that is not allowed.
        VerificationError: `manifest.missing-setting`: All rejected findings are without a class; the first is a missing
            setting.
        VerificationError: `manifest.unknown-setting`: The same; the first is an unknown setting.
        VerificationError: `manifest.invalid-setting`: The same; the first is a value that is not accepted.
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
                hint="Correct these settings. The option after a finding accepts all findings of the same kind, and "
                "removes the protection against them.",
            )
        raise refused[0].code.error(
            f"{name} is not accepted: {shown}{more}.",
            hint="Start from the manifest that `sealserve enclave manifest` prints.",
        )
    for finding in findings:
        LOGGER.warning("dangerous: %s, %s", name, finding)


def without(data: Mapping[str, Any], findings: Collection[LintFinding]) -> dict[str, Any]:
    """Return a manifest's content without the insecure settings, and with a safe value for each required setting."""
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
        return  # the element was removed together with its parent
    if above and not parent and isinstance(parent, list):
        _take_out(data, tuple(above))
