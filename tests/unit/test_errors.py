"""Every error has a code of its own, a status, a meaning, a row in the reference, and a test."""

import ast
import importlib.util
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import pytest
from tests.harness.errors import raises

from sealserve import client
from sealserve.broker.appraised import BrokerInternalError
from sealserve.errors import ErrorCode, InputError, SealserveError, UnavailableError, VerificationError
from sealserve.serving.request_errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "errors.py"
FAMILIES = (InputError, VerificationError, UnavailableError, RequestError)


class Cause(Protocol):
    """What the script says of a code."""

    code: str
    name: str
    family: type[SealserveError]
    status: str
    meaning: str


class Script(Protocol):
    """What the script that writes the reference offers."""

    PAGE: Path

    def enumerations(self) -> list[type[ErrorCode]]: ...
    def classes(self) -> list[type[SealserveError]]: ...
    def causes(self) -> list[Cause]: ...
    def render(self) -> str: ...


class Sample(ErrorCode):
    """The codes of these tests."""

    INPUT = "sample.input", InputError
    OTHER_INPUT = "sample.other-input", InputError
    PEER = "sample.peer", UnavailableError


@cache
def script() -> Script:
    spec = importlib.util.spec_from_file_location("errors_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return cast(Script, module)


@cache
def causes() -> Sequence[Cause]:
    return script().causes()


def with_own_code() -> list[type[SealserveError]]:
    return [found for found in script().classes() if "." in vars(found).get("code", "")]


def test_there_are_many() -> None:
    assert len(causes()) > 250


def test_codes_are_unique() -> None:
    by_code: dict[str, list[str]] = {}
    for cause in causes():
        by_code.setdefault(cause.code, []).append(cause.name)
    assert {code: names for code, names in by_code.items() if len(names) > 1} == {}


def test_what_nobody_foresaw_is_internal() -> None:
    assert SealserveError.code == "internal"
    assert [found for found in script().classes() if found.code == "internal"] == [BrokerInternalError]


def test_codes_are_well_formed() -> None:
    code = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.[a-z0-9]+(-[a-z0-9]+)*")
    assert [cause.name for cause in causes() if not code.fullmatch(cause.code)] == []


def test_a_package_has_one_enumeration_in_its_module_codes() -> None:
    modules = [found.__module__ for found in script().enumerations()]
    assert len(modules) == len(set(modules))
    assert [module for module in modules if not re.fullmatch(r"sealserve(\.\w+)?\.codes", module)] == [
        "sealserve.serving.request_errors"
    ]


def test_a_member_is_named_as_its_code() -> None:
    """The name is the whole code, or without its first part where that is the name of the package."""
    for member in (member for found in script().enumerations() for member in found):
        first, _, rest = member.value.partition(".")
        package = "request" if type(member).__name__ == "RequestCode" else type(member).__module__.split(".")[1]
        assert member.name == (rest if first == package else member.value).upper().replace(".", "_").replace("-", "_")


def test_a_class_without_a_cause_is_a_family() -> None:
    """A class without a code of its own is there for others to inherit from: no code raises it."""
    own = with_own_code()
    bare = [found for found in script().classes() if found not in (*own, *FAMILIES, BrokerInternalError)]
    assert [found.__qualname__ for found in bare if not found.__subclasses__()] == []


def test_a_class_with_a_cause_is_caught_or_carries_data() -> None:
    """Any other error needs no class: a member of the enumeration of its package has its code.

    Users of `sealserve.client` catch the classes that it exports.
    """
    named = {*names_as_values(), *getattr(client, "__all__", ())}
    bare = [
        found
        for found in with_own_code()
        if set(found.__bases__) <= set(FAMILIES) and not {"__init__", "status"} & set(vars(found))
    ]
    assert [found.__qualname__ for found in bare if found.__name__ not in named] == []


def test_each_belongs_to_a_family_that_gives_its_status() -> None:
    for cause in causes():
        (family,) = [family for family in FAMILIES if issubclass(cause.family, family)]
        assert cause.family.exit_status == family.exit_status, cause.name


def test_the_family_of_a_member_has_no_code_of_its_own() -> None:
    assert {member.family for found in script().enumerations() for member in found} <= set(FAMILIES)


def test_each_says_what_it_means() -> None:
    assert [cause.name for cause in causes() if not cause.meaning.endswith((".", "?"))] == []


def test_the_reference_has_each_with_its_status_and_meaning() -> None:
    page = script().PAGE.read_text(encoding="utf-8")
    rows = (f"| `{cause.code}` | {cause.status} | {cause.meaning} |" for cause in causes())
    assert [row for row in rows if row not in page] == []
    for family in (InputError, VerificationError, UnavailableError):
        assert f"| {family.exit_status} | `{family.code}`: {(family.__doc__ or '').splitlines()[0]} |" in page


def test_the_reference_is_what_the_script_writes() -> None:
    assert script().PAGE.read_text(encoding="utf-8") == script().render()


def test_listing_them_imports_no_tensorflow() -> None:
    program = "import sys; from scripts import errors; errors.causes(); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=SCRIPT.parent.parent)


def test_a_test_expects_each() -> None:
    """As far as the source of the tests can tell: each code stands in another test, as a member or as a string.

    `tests.harness.errors.raises` compares the codes when the tests run.
    """
    members, strings = expected_by_tests()
    mentioned = set(re.findall(r"(?<![\w.-])[a-z0-9-]+\.[a-z0-9-]+", "\n".join(strings)))
    assert [
        cause.name
        for cause in causes()
        if cause.code not in mentioned and ".".join(cause.name.split(".")[-2:]) not in members
    ] == []


def test_a_member_makes_an_error_of_its_family() -> None:
    error = Sample.PEER.error("It is away.", hint="Start it.")
    assert type(error) is UnavailableError
    assert (error.code, error.exit_status, str(error)) == ("sample.peer", 4, "It is away. Start it.")
    assert type(error.code) is str
    assert repr(error) == "<UnavailableError sample.peer: 'It is away.'>"


def test_an_error_without_a_cause_has_the_code_of_its_class() -> None:
    assert InputError("No.").code == "input"


def test_an_error_is_the_same_after_pickling() -> None:
    error = pickle.loads(pickle.dumps(Sample.INPUT.error("No.", hint="Try again.")))  # noqa: S301  # our own
    assert (type(error), error.code, error.message, error.hint) == (InputError, "sample.input", "No.", "Try again.")


def test_a_test_that_expects_another_code_fails() -> None:
    message = "expected sample.other-input, got <InputError sample.input: 'No.'>"
    with pytest.raises(AssertionError, match=message), raises(Sample.OTHER_INPUT, match="No"):
        raise Sample.INPUT.error("No.")


def test_a_test_that_expects_one_of_several_codes_passes() -> None:
    with raises(Sample.OTHER_INPUT, Sample.PEER, match="No") as caught:
        raise Sample.PEER.error("No.")
    assert caught.value.code == Sample.PEER


@cache
def expected_by_tests() -> tuple[set[str], list[str]]:
    """Return the members of enumerations that the other tests name, and the strings in them."""
    members: set[str] = set()
    strings: list[str] = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path == Path(__file__):
            continue
        for node, parent in with_parents(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if not (isinstance(parent, ast.Attribute) and parent.attr == "error"):  # a test that makes an error
                    members.add(f"{node.value.id}.{node.attr}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not isinstance(parent, ast.Expr):
                strings.append(node.value)
    return members, strings


def names_as_values() -> Iterator[str]:
    """Return the names that the source uses in `except`, in calls and in tuples, but not to call them."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node, parent in with_parents(path):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            called = isinstance(parent, ast.Call) and parent.func is node
            if name.endswith("Error") and not called and not isinstance(parent, ast.FunctionDef | ast.ClassDef):
                yield name


def with_parents(path: Path) -> Iterator[tuple[ast.AST, ast.AST]]:
    for parent in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for node in ast.iter_child_nodes(parent):
            yield node, parent
