"""Every error in a value of the deployment file has a message in sealserve's own words."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from tests.harness.errors import raises

from sealserve import deployment
from sealserve.deployment import value_faults
from sealserve.deployment.codes import DeploymentCode
from sealserve.deployment.section import Section, fields_of, section_of
from sealserve.deployment.whole import Deployment
from sealserve.errors import InputError

WRONG = [True, False, -1, 0, 10**30, 1.5, 2.0, float("inf"), float("nan"), "", "1", "true", "no such value", "x" * 300,
         "a;b", "\u00e9", [], [1], [[]], ["x;y"], ["a"] * 9, {}, {"a": 1}, {"a b": "x"}, [{}]]  # fmt: skip
PYDANTIC = ("Input should", "Value error", "valid integer", "String should", "Tuple should", "List should", "pattern",
            "Field required", "Extra inputs", "validation error", "__")  # fmt: skip


def keys(section: type[Section] = Deployment, table: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in fields_of(section).items():
        yield (*table, name)
        if (inner := section_of(field)) is not None:
            yield from keys(inner, (*table, name))


def with_value(path: tuple[str, ...], value: object) -> dict[str, Any]:
    data: dict[str, Any] = {"model": {"name": "m"}}
    table = data
    for part in path[:-1]:
        table = table.setdefault(part, {})
    table[path[-1]] = value
    if isinstance(data["model"], dict):
        data["model"] = [data["model"]]
    return data


def toml(value: object) -> str:
    if isinstance(value, float) and value == float("inf"):
        return "inf"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return "nan" if value != value else json.dumps(value)  # noqa: PLR0124


@pytest.mark.filterwarnings("ignore::sealserve.deprecation.DeprecatedKeyWarning")
@pytest.mark.parametrize("path", list(keys()), ids=".".join)
def test_each_key_with_each_kind_of_wrong_value(path: tuple[str, ...]) -> None:
    refused = 0
    for value in WRONG:
        data = with_value(path, value)
        try:
            Deployment.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            refused += 1
            for item in error.errors():
                known = value_faults.is_known(item) or item["type"] in {"missing", "extra_forbidden"}
                assert known, (value, item)
        text = "".join(f"{key} = {toml(item)}\n" for key, item in data.items())
        try:
            deployment.parse(text)
        except InputError as error:
            told = f"{error.message} {error.hint}"
            assert not any(word in told for word in PYDANTIC), told  # some values are accepted
            assert "sealserve.toml, line " in told, told
    assert refused


def test_each_pattern_has_a_description() -> None:
    found = set(_patterns(Deployment.model_json_schema()))
    assert found <= set(value_faults.PATTERNS)
    assert len(found) > 5


def _patterns(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "pattern":
                yield value
            elif key == "patternProperties":
                yield from value
            yield from _patterns(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _patterns(item)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[service]\nport = '1'", "line 4: service.port: expected an integer, got '1'.", "Remove the quotation marks."),
        ("[service]\nport = 'x'", "line 4: service.port: expected an integer, got 'x'.", None),
        ("[enclave]\nedmm = 'true'", "expected true or false, got 'true'.", "Remove the quotation marks."),
        ("[images]\ntag = 1.0", "expected text in quotation marks, got 1.0.", "Put the value in quotation marks."),
        ("[service]\ntls = 'twoway'", "expected 'one-way' or 'two-way', got 'twoway'.", "Did you mean 'two-way'?"),
        ("[target]\nkind = 'k8s'", "expected 'local', 'docker' or 'kubernetes', got 'k8s'.", None),
        (
            "[kubernetes]\nrun_as_user = 'root'",
            "line 4: kubernetes.run_as_user: expected an integer, or 'image' or 'platform', got 'root'.",
            None,
        ),
        (
            "[kubernetes.store]\naddresses = ['x']",
            "kubernetes.store.addresses: expected an IP network in quotation marks, such as 10.213.0.0/22 or",
            None,
        ),
        ("[enclave]\nsize = '8'", """expected "auto", or a size such as "512M" or "8G", got '8'.""", None),
        ("[kubernetes]\nip_families = ['IPv4', 'IPv6', 'IPv4']", "expected a list of at most 2 items", None),
    ],
)
def test_an_error_for_a_wrong_value_names_the_expected_value(text: str, message: str, hint: str | None) -> None:
    with raises(DeploymentCode.INVALID_VALUE) as caught:
        deployment.parse(f"[model]\nname = 'm'\n{text}\n")
    assert message in caught.value.message
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("port = 8500", "Did you mean 'service.port' or 'broker.port' or 'kubernetes.dns.port'?"),
        ("[service]\nreplicas = 3", "Did you mean 'target.replicas' or 'kubernetes.ingress.replicas'?"),
        ("[model]\nnme = 'm'", "Did you mean 'model.name'?"),
    ],
)
def test_the_hint_for_an_unknown_key_names_the_full_known_key(text: str, hint: str) -> None:
    with raises(DeploymentCode.UNKNOWN_KEY) as caught:
        deployment.parse(f"{text}\n" if "model" in text else f"{text}\n[model]\nname = 'm'\n")
    assert caught.value.hint == hint
