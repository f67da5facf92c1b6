"""Policy files: an appraisal policy as TOML, version 2. `sealserve.attestation.policy_text` writes the same form.

Unknown keys, duplicates and values of another type are errors: an ignored rule would accept more than the owner wants.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.policy import (
    LARGEST_EVALUATION_NUMBER,
    LONGEST_AGE,
    AppraisalPolicy,
)
from sealserve.attestation.tcb_policy import ACCEPTABLE, ANY, LONGEST_GRACE, OUT_OF_DATE, GracePeriod, TcbPolicy
from sealserve.deployment.value_faults import expectation, remedy
from sealserve.errors import InputError, SealserveError
from sealserve.terms import PlatformKind

LARGEST_FILE: Final = 1 << 20
"""The maximum size of a policy file in bytes."""
_NAME: Final = re.compile(r"[0-9A-Za-z]([0-9A-Za-z._-]{0,61}[0-9A-Za-z])?")
_PLATFORM_ID: Final = re.compile(r"[0-9a-f]{32}")

RulesParser = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Checks the table of one kind of evidence, and returns its rules in the form that `Claims.check_rules` interprets.

It raises a `pydantic.ValidationError` if a rule is invalid.
"""


def _unique(values: list[str]) -> list[str]:
    if doubles := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{doubles[0]!r} is listed twice")
    return values


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("expected 1 to 63 letters, digits, '.', '_' and '-', with a letter or digit at each end")
    return text


def _platform_ids(values: list[str]) -> list[str]:
    lowered = [value.lower() for value in values]
    for value in lowered:
        if not _PLATFORM_ID.fullmatch(value):
            raise ValueError(f"expected platform ids of 32 hexadecimal digits, got {value!r:.80}")
    return _unique(lowered)


def _not_empty(values: list[str]) -> list[str]:
    if not values:
        raise ValueError("an empty list would refuse every platform; remove the key to accept any platform")
    return values


def _plain_date(value: object) -> object:
    if isinstance(value, datetime) or not isinstance(value, date):
        raise ValueError("expected a date without quotation marks, such as 2026-03-10")  # noqa: TRY004  # pydantic's rule
    return value


_Advisories = Annotated[list[str], AfterValidator(_unique)]
_Platforms = Annotated[list[str], AfterValidator(_platform_ids)]


def _known_statuses(permitted: frozenset[TcbStatus], hint: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def check(found: dict[str, Any]) -> dict[str, Any]:
        for status in found:
            if status not in permitted:
                raise ValueError(f"{status!r:.80} cannot be accepted here; {hint}")
        if not found:
            raise ValueError("expected at least one status")
        return found

    return check


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Grace(_Table):
    days: Annotated[int, Field(ge=1, le=LONGEST_GRACE)]
    accept: Annotated[
        dict[str, _Advisories | Literal["any"]],
        AfterValidator(_known_statuses(OUT_OF_DATE, f"a grace period accepts {' and '.join(sorted(OUT_OF_DATE))}")),
    ]


class _Tcb(_Table):
    accept: Annotated[
        dict[str, _Advisories],
        AfterValidator(
            _known_statuses(
                ACCEPTABLE,
                f"use {', '.join(sorted(ACCEPTABLE))}. Out-of-date statuses are permitted only in [tcb.grace.accept]",
            )
        ),
    ]
    least_date: Annotated[date, BeforeValidator(_plain_date)] | None = None
    grace: _Grace | None = None


class _Collateral(_Table):
    max_age_days: Annotated[int, Field(ge=1, le=LONGEST_AGE)] | None = None
    least_evaluation_number: Annotated[int, Field(ge=0, le=LARGEST_EVALUATION_NUMBER)] = 0


class _PlatformLists(_Table):
    enrolled_only: bool | None = None
    allow: Annotated[_Platforms, AfterValidator(_not_empty)] | None = None
    deny: _Platforms = []


class _File(_Table):
    version: Literal[2]
    name: Annotated[str, AfterValidator(_name)]
    tcb: _Tcb
    collateral: _Collateral = _Collateral()
    platforms: _PlatformLists = _PlatformLists()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """A valid policy file.

    Args:
        rules: The rules. ``enrolled_platforms_only`` is the value for SGX machines.
        enrolled_only: Whether the file requires enrolled platforms, or `None` if it does not say so.
    """

    rules: AppraisalPolicy
    enrolled_only: bool | None

    def for_platform(self, platform: PlatformKind) -> AppraisalPolicy:
        """Return the policy for releases of one kind of platform.

        Enrollment of simulated platforms is required only if the file requires it, because they provide no protection
        anyway.
        """
        if platform is PlatformKind.SGX or self.enrolled_only:
            return self.rules
        return replace(self.rules, enrolled_platforms_only=False)


def parse(raw: bytes, *, file: str, evidence: Mapping[str, RulesParser], reserved: Mapping[str, str]) -> PolicyFile:
    """Parse a policy file.

    Args:
        raw: The content of the file.
        file: The name of the file in messages.
        evidence: The supported tables for kinds of evidence, such as ``sgx``, and their parsers.
        reserved: The names of the presets and their rules as JSON. A custom policy with the name of a preset must have
            its rules, because the name is in the audit log.

    Raises:
        InputError: `policy.file` if the content is not a valid policy file. The message names the key.
    """
    # 1. Parse TOML, which rejects duplicate keys.
    data = _tables(raw, file)
    # 2. Check the tables for kinds of evidence with their own parsers.
    rules = {
        kind: found
        for kind, parser in evidence.items()
        if kind in data and (found := _evidence_rules(data.pop(kind), parser, file=file, kind=kind))
    }
    # 3. Check all other keys, and then the policy as a whole.
    try:
        parsed = _File.model_validate(data)
    except ValidationError as error:
        _explain(error, file)
    try:
        policy = _policy(parsed, json.dumps(rules, sort_keys=True, separators=(",", ":")))
    except InputError as error:
        raise _fault(file, error.message, hint=error.hint) from error
    # 4. A name that the audit log shows must not stand for two different policies.
    if parsed.name in reserved and policy.to_json() != reserved[parsed.name]:
        raise _fault(file, f"name: {parsed.name!r} is the name of a preset with other rules.", hint="Change the name.")
    if parsed.platforms.enrolled_only is False:
        raise _fault(
            file,
            "platforms.enrolled_only: SGX releases always require enrolled platforms.",
            hint="Remove the key, or set it to true to require enrollment of simulated platforms too.",
        )
    return PolicyFile(rules=policy, enrolled_only=parsed.platforms.enrolled_only)


def _tables(raw: bytes, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _fault(file, "it is not UTF-8 text.", hint="Save the file with the encoding UTF-8.") from error
    except RecursionError as error:
        raise _fault(file, "its tables or lists are nested too deeply.") from error
    except ValueError as error:
        raise _fault(file, f"it is not valid TOML: {error}.", hint="Correct this line of the file.") from error


def _evidence_rules(table: object, parser: RulesParser, *, file: str, kind: str) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise _fault(file, f"{kind}: expected a table.")
    try:
        return parser(table)
    except ValidationError as error:
        _explain(error, file, prefix=f"{kind}.")


def _policy(file: _File, evidence_rules: str) -> AppraisalPolicy:
    grace = file.tcb.grace
    return AppraisalPolicy(
        tcb=TcbPolicy(
            name=file.name,
            accept={TcbStatus(status): frozenset(found) for status, found in file.tcb.accept.items()},
            grace=None
            if grace is None
            else GracePeriod(
                days=grace.days,
                accept={
                    TcbStatus(status): ANY if isinstance(found, str) else frozenset(found)
                    for status, found in grace.accept.items()
                },
            ),
        ),
        enrolled_platforms_only=True,
        least_evaluation_number=file.collateral.least_evaluation_number,
        least_tcb_date=file.tcb.least_date,
        max_collateral_age_days=file.collateral.max_age_days,
        allowed_platforms=None if file.platforms.allow is None else frozenset(file.platforms.allow),
        denied_platforms=frozenset(file.platforms.deny),
        evidence_rules=evidence_rules,
    )


def _explain(error: ValidationError, file: str, *, prefix: str = "") -> NoReturn:
    found_errors = error.errors(include_url=False)
    # An unknown key is reported first, because it explains why a required key is missing.
    first = next((item for item in found_errors if item["type"] == "extra_forbidden"), found_errors[0])
    # A union adds the name of the alternative to the location. It is not a key of the file.
    parts = [str(part) for part in first["loc"] if not str(part).startswith(("list[", "literal[", "function-"))]
    key = prefix + ".".join(parts)
    match first["type"]:
        case "extra_forbidden":
            raise _fault(file, f"{key}: this key is unknown.", hint="Correct or remove the key.") from error
        case "missing":
            raise _fault(file, f"{key}: this key is missing.", hint="Add the key.") from error
        case "value_error":
            raise _fault(file, f"{key}: {first['ctx']['error']}.") from error
    found = f"{first['input']!r:.80}"
    expected = "a list" if first["type"] == "list_type" else expectation(first)
    raise _fault(file, f"{key}: expected {expected}, got {found}.", hint=remedy(first)) from error


def _fault(file: str, message: str, *, hint: str | None = None) -> SealserveError:
    shown = "".join(character if character.isprintable() else "?" for character in message)  # keys can be any text
    return AttestationCode.POLICY_FILE.error(
        f"The policy file {file} is invalid: {shown}",
        hint=hint or "Correct the key. docs/reference/policy-file.md describes all keys.",
    )
