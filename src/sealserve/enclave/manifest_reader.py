"""The reader of manifests. Every manifest is read here, so that every insecure or unknown setting is found.

The reader accepts only settings that `manifest` defines. It rejects an unknown key, and a value that sealserve would
not write, by name. Therefore no setting can weaken an enclave unnoticed.
"""

import reprlib
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.environment import needed_variables
from sealserve.enclave.findings import Danger, LintFinding, dotted, refuse, without
from sealserve.enclave.lint import lint, nearest_line
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.toml_lines import Path, find_lines

_TEMPLATE_MARKS: Final = ("{{", "{%", "{#")  # Jinja syntax, which gramine-manifest renders
_TYPE_TAGS: Final = frozenset({"chroot", "tmpfs", "encrypted"})  # pydantic adds them to the location of an error


def read_toml(raw: bytes, *, name: str) -> tuple[str, dict[str, Any]]:
    """Return the text of a manifest, and the parsed data.

    Raises:
        VerificationError: `manifest.syntax`: The manifest is not UTF-8 text or not valid TOML.
    """
    try:
        text = raw.decode()
        return text, tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise EnclaveCode.MANIFEST_SYNTAX.error(f"{name} is not valid TOML: {error}.") from error


def refuse_template(raw: bytes, *, name: str) -> None:
    """Reject a manifest that contains template syntax, because its rendered content cannot be checked.

    Call it for texts that a person wrote. Do not call it for the output of `EnclaveManifest.to_bytes` or Gramine's
    tools: the name of a trusted file may contain such syntax, and these texts are never rendered.

    Raises:
        VerificationError: `manifest.template`: The manifest contains Jinja syntax.
    """
    for number, line in enumerate(raw.splitlines(), start=1):
        for mark in _TEMPLATE_MARKS:
            if mark.encode() in line:
                raise EnclaveCode.MANIFEST_TEMPLATE.error(
                    f"{name} is a template: line {number} contains {mark!r}, which gramine-manifest would replace.",
                    hint=f"Render the template, and check the result: `gramine-manifest {name} rendered.manifest`.",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedManifest:
    """A manifest and every finding that rejects it.

    Args:
        findings: In the order of their lines. Findings without a class are always rejected.
        manifest: The manifest without the insecure settings; None if the findings leave none.
    """

    findings: tuple[LintFinding, ...]
    manifest: EnclaveManifest | None


def examine(raw: bytes, *, name: str, one_way_tls: bool = False) -> ExaminedManifest:
    """Return the parsed manifest, and every finding for which `parse_manifest` rejects it.

    Steps: (1) parse the TOML; (2) find insecure settings; (3) find unknown or invalid settings in the rest.

    Args:
        raw: The file's exact bytes.
        name: The manifest's name in error messages.
        one_way_tls: Whether the server accepts clients without a certificate.

    Raises:
        VerificationError: `manifest.syntax`: The manifest is not UTF-8 text or not valid TOML.
    """
    text, data = read_toml(raw, name=name)  # (1)
    try:
        return _examine(text, data, one_way_tls=one_way_tls)
    except RecursionError as error:  # dotted keys can nest deeper than the TOML parser's own limit
        raise EnclaveCode.MANIFEST_SYNTAX.error(
            f"{name} cannot be used as a manifest: its TOML is nested too deeply."
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
        problems += [_lacking(variable) for variable in needed_variables(environment) if variable not in environment]
    findings = sorted((*insecure, *problems), key=lambda finding: (finding.line, finding.setting))
    return ExaminedManifest(findings=tuple(findings), manifest=manifest)


def parse_manifest(
    raw: bytes, *, name: str = "the manifest", dangerous: Collection[Danger] = (), one_way_tls: bool = False
) -> EnclaveManifest:
    """Read a ``.manifest.sgx``.

    Args:
        raw: The file's exact bytes.
        name: The manifest's name in error messages.
        dangerous: The classes of insecure settings that are allowed. The result does not contain these settings.
        one_way_tls: Whether the server accepts clients without a certificate.

    Raises:
        VerificationError: `manifest.syntax`: The manifest is not UTF-8 text or not valid TOML.
        VerificationError: `manifest.insecure`: The manifest has insecure settings. The message has the line, the
            setting and the reason of each.
        VerificationError: `manifest.missing-setting`: A required setting is missing; the message names it.
        VerificationError: `manifest.unknown-setting`: A setting is not accepted; the message names it.
        VerificationError: `manifest.invalid-setting`: A setting has a value that is not accepted; the message names
            both.
    """
    examined = examine(raw, name=name, one_way_tls=one_way_tls)
    refuse(examined.findings, dangerous, name=name)
    assert examined.manifest is not None  # noqa: S101  # if it is None, `refuse` has raised an error
    return examined.manifest


def _problem(detail: ErrorDetails, lines: dict[Path, int]) -> LintFinding:
    """Convert an error of pydantic into a finding."""
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
        reason += f", got {reprlib.repr(detail['input'])}"
    return LintFinding(line=line, setting=where, reason=reason, danger=None, code=EnclaveCode.MANIFEST_INVALID_SETTING)


def _path_of(place: tuple[int | str, ...]) -> Path:
    """Return the keys of a location that pydantic reports, without the type of a mount that pydantic adds."""
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
