"""The one way to read a manifest: it finds everything that sealserve refuses in it.

Reading accepts only what `manifest` knows, so that no setting weakens an enclave unnoticed: an unknown key, or a value
that sealserve would not write, is refused by name.
"""

import reprlib
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.environment import NEEDED
from sealserve.enclave.findings import Danger, LintFinding, dotted, refuse, without
from sealserve.enclave.lint import lint, nearest_line
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.toml_lines import Path, find_lines

_TEMPLATE_MARKS: Final = ("{{", "{%", "{#")  # of Jinja, which gramine-manifest renders
_TYPE_TAGS: Final = frozenset({"chroot", "tmpfs", "encrypted"})  # pydantic's, in the place of an error


def read_toml(raw: bytes, *, name: str) -> tuple[str, dict[str, Any]]:
    """Return the text of a manifest, and what it says.

    Raises:
        VerificationError: `manifest.syntax`: No UTF-8 text, or no TOML.
    """
    try:
        text = raw.decode()
        return text, tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise EnclaveCode.MANIFEST_SYNTAX.error(f"{name} is not valid TOML: {error}.") from error


def refuse_template(raw: bytes, *, name: str) -> None:
    """Refuse a manifest that Gramine would render first: its text can then become any other.

    Call it for texts that somebody wrote, not for what `EnclaveManifest.to_bytes` or Gramine's tools returned: a
    trusted file may have such a name, and those are never rendered.

    Raises:
        VerificationError: `manifest.template`: It has a mark of Jinja.
    """
    for number, line in enumerate(raw.splitlines(), start=1):
        for mark in _TEMPLATE_MARKS:
            if mark.encode() in line:
                raise EnclaveCode.MANIFEST_TEMPLATE.error(
                    f"{name} is a template: line {number} has {mark!r}, which gramine-manifest replaces.",
                    hint=f"Render it first, and check the result: `gramine-manifest {name} rendered.manifest`.",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedManifest:
    """A manifest and everything that is refused in it.

    Args:
        findings: In the order of their lines. Those without a class are refused in any case.
        manifest: The manifest without the insecure settings; None if the findings leave none.
    """

    findings: tuple[LintFinding, ...]
    manifest: EnclaveManifest | None


def examine(raw: bytes, *, name: str, one_way_tls: bool = False) -> ExaminedManifest:
    """Return what a manifest says, and everything that `parse_manifest` refuses in it.

    Steps: (1) it is TOML; (2) find what makes the enclave insecure; (3) find what is not known here in the rest.

    Args:
        raw: The file's exact bytes.
        name: What to call it in errors.
        one_way_tls: Whether the server lets in clients without a certificate.

    Raises:
        VerificationError: `manifest.syntax`: No UTF-8 text, or no TOML.
    """
    text, data = read_toml(raw, name=name)  # (1)
    try:
        return _examine(text, data, one_way_tls=one_way_tls)
    except RecursionError as error:  # keys with dots nest deeper than what the TOML parser itself follows
        raise EnclaveCode.MANIFEST_SYNTAX.error(
            f"{name} is not valid TOML for a manifest: it is nested too deeply."
        ) from error


def _examine(text: str, data: dict[str, Any], *, one_way_tls: bool) -> ExaminedManifest:
    insecure = lint(text, data, one_way_tls=one_way_tls)  # (2)
    manifest = None
    problems: list[LintFinding] = []
    try:
        manifest = EnclaveManifest.model_validate(without(data, insecure))  # (3)
    except ValidationError as error:
        lines = find_lines(text)
        details = error.errors(include_url=False, include_context=False)
        problems = [_problem(detail, lines) for detail in details]
    environment = data["loader"].get("env") if isinstance(data.get("loader"), dict) else None
    if isinstance(environment, dict):
        problems += [_lacking(variable) for variable in NEEDED if variable not in environment]
    findings = sorted((*insecure, *problems), key=lambda finding: (finding.line, finding.setting))
    return ExaminedManifest(findings=tuple(findings), manifest=manifest)


def parse_manifest(
    raw: bytes, *, name: str = "the manifest", dangerous: Collection[Danger] = (), one_way_tls: bool = False
) -> EnclaveManifest:
    """Read a ``.manifest.sgx``.

    Args:
        raw: The file's exact bytes.
        name: What to call it in errors.
        dangerous: The classes of insecure settings that are allowed; they are not in what is returned.
        one_way_tls: Whether the server lets in clients without a certificate.

    Raises:
        VerificationError: `manifest.syntax`: No UTF-8 text, or no TOML.
        VerificationError: `manifest.insecure`: It has insecure settings; the message has the line, the setting and the
            reason of each.
        VerificationError: `manifest.missing-setting`: A needed setting is not there; the message names it.
        VerificationError: `manifest.unknown-setting`: A setting is there that is not accepted; the message names it.
        VerificationError: `manifest.invalid-setting`: A setting has a value that is not accepted; the message names
            both.
    """
    examined = examine(raw, name=name, one_way_tls=one_way_tls)
    refuse(examined.findings, dangerous, name=name)
    assert examined.manifest is not None  # noqa: S101  # without it there is a finding that nothing allows
    return examined.manifest


def _problem(detail: ErrorDetails, lines: dict[Path, int]) -> LintFinding:
    """Return the finding for what pydantic found."""
    path = _path_of(detail["loc"])
    where = dotted(path) or "as a whole"
    line = nearest_line(lines, path)
    if detail["type"] == "missing":
        return LintFinding(
            line=line, setting=where, reason="it is missing", danger=None, code=EnclaveCode.MANIFEST_MISSING_SETTING
        )
    if detail["type"] == "extra_forbidden":
        reason = "is not accepted"
        return LintFinding(
            line=line, setting=where, reason=reason, danger=None, code=EnclaveCode.MANIFEST_UNKNOWN_SETTING
        )
    reason = detail["msg"].removeprefix("Value error, ")
    if path:
        reason += f" (it is {reprlib.repr(detail['input'])})"
    return LintFinding(line=line, setting=where, reason=reason, danger=None, code=EnclaveCode.MANIFEST_INVALID_SETTING)


def _path_of(place: tuple[int | str, ...]) -> Path:
    """Return the keys of a place that pydantic names: it puts in the type of a mount, which is not a key."""
    path: list[int | str] = []
    for part in place:
        if part in _TYPE_TAGS and path[-2:-1] == ["mounts"]:
            continue
        path.append(part)
    return tuple(path)


def _lacking(variable: str) -> LintFinding:
    return LintFinding(
        line=1,
        setting=f"loader.env.{variable}",
        reason="it is missing",
        danger=None,
        code=EnclaveCode.MANIFEST_MISSING_SETTING,
    )
