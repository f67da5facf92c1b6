"""Descriptions of expected values, for the errors that pydantic finds in ``sealserve.toml``.

Pydantic's own messages contain Python types and regular expressions, which users should not have to read. `TYPES` and
`PATTERNS` cover every error that the sections can raise. A test compares them with the schema.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

from sealserve.deployment import values
from sealserve.deployment.section import AT_KEY
from sealserve.names import DNS_NAME_PATTERN, NAME_PATTERN, OPERATION_NAME_PATTERN

_TIME: Final = "a time such as 2026-11-29T12:30:00"
_INTEGER: Final = "an integer"
_TEXT: Final = "text in quotation marks"
_LIST: Final = "a list"
_TABLE: Final = "a table"
_TRUTH: Final = "true or false"

TYPES: Final[Mapping[str, str]] = {
    "bool_type": _TRUTH,
    "dict_type": _TABLE,
    "enum": "{expected}",
    "finite_number": _INTEGER,
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than_equal": "a number of at least {ge}",
    "int_from_float": _INTEGER,
    "datetime_from_date_parsing": _TIME,
    "datetime_parsing": _TIME,
    "int_parsing": _INTEGER,
    "int_parsing_size": "a smaller integer",
    "int_type": _INTEGER,
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "model_type": _TABLE,
    "path_type": _TEXT,
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} character",
    "string_type": _TEXT,
    "too_long": "a list of at most {max_length} items",
    "too_short": "a list of at least {min_length} item",
    "tuple_type": _LIST,
}
"""The expected value, by the type of pydantic's error. The fields come from the error's context."""

_DNS_LABEL_TEXT: Final = "at most 63 lower-case letters, digits and hyphens, with a letter or digit at each end"

PATTERNS: Final[Mapping[str, str]] = {
    NAME_PATTERN: "at most 63 letters, digits, '.', '_' and '-', with a letter or digit at each end",
    DNS_NAME_PATTERN: 'a DNS name in lower case, such as "grpc.example.com"',
    OPERATION_NAME_PATTERN: 'the name of an operation without spaces, such as "PrintV2"',
    values.BROKER_ADDRESS_PATTERN: 'a DNS name or an IPv4 address, such as "broker.example.com"',
    values.ENCLAVE_SIZE_PATTERN: '"auto", or a size such as "512M" or "8G"',
    values.IMAGE_PREFIX_PATTERN: 'a name, or a registry and a path, such as "registry.example.com/team/sealserve"',
    values.IMAGE_TAG_PATTERN: "at most 128 letters, digits, '.', '_' and '-', starting with a letter, digit or '_'",
    values.KUBERNETES_NAME_PATTERN: _DNS_LABEL_TEXT,
    values.LABEL_KEY_PATTERN: 'the key of a Kubernetes label, such as "k8s-app" or "example.com/role"',
    values.LABEL_VALUE_PATTERN: "the value of a Kubernetes label: at most 63 letters, digits, '.', '_' and '-'",
    values.QUANTITY_PATTERN: 'a Kubernetes quantity, such as "500m" or "4Gi"',
}
"""The expected form of a text, by its regular expression."""

_OUR_OWN: Final = frozenset({"value_error", AT_KEY})
"""Types of the errors that the sections' own validators raise. Their messages are already sentences."""


def is_known(error: Mapping[str, Any]) -> bool:
    """Return whether a description exists for an error of pydantic."""
    if error["type"] == "string_pattern_mismatch":
        return error["ctx"]["pattern"] in PATTERNS
    return error["type"] in _OUR_OWN or error["type"] in TYPES


def is_our_own(error: Mapping[str, Any]) -> bool:
    """Return whether a validator of a section raised the error."""
    return error["type"] in _OUR_OWN


def expectation(error: Mapping[str, Any]) -> str:
    """Return the expected value, as part of a sentence."""
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], "a different text")
    text = TYPES.get(error["type"], "a different value").format_map(context)
    return text if not text.endswith(" item") or context.get("min_length") == 1 else f"{text}s"


def remedy(error: Mapping[str, Any]) -> str | None:
    """Return the hint for an invalid value, or None if the message is sufficient."""
    kind, value = error["type"], error["input"]
    expected = TYPES.get(kind)
    if expected in {_INTEGER, _TRUTH} and isinstance(value, str):
        looks_right = value.isdecimal() if expected == _INTEGER else value in {"true", "false"}
        return "Remove the quotation marks." if looks_right else None
    if expected == _TEXT and isinstance(value, bool | int | float):
        return "Put the value in quotation marks."
    if expected == _LIST and isinstance(value, str):
        return "Put the value in square brackets."
    if kind in {"enum", "literal_error"} and isinstance(value, str):
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        close = difflib.get_close_matches(value[:100].lower(), choices, n=1)
        return f"Did you mean {close[0]!r}?" if close else None
    return None
