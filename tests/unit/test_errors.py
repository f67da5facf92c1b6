"""Every error has a code of its own, a status, a meaning, a row in the reference, and a test."""

import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from sealserve.broker.decision import BrokerInternalError
from sealserve.errors import InputError, SealserveError, UnavailableError, VerificationError
from sealserve.serving.request_errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "errors.py"
FAMILIES = (InputError, VerificationError, UnavailableError, RequestError)


class Script(Protocol):
    """What the script that writes the reference offers."""

    PAGE: Path

    def classes(self) -> list[type[SealserveError]]: ...
    def causes(self) -> list[type[SealserveError]]: ...
    def meaning(self, found: type[SealserveError]) -> str: ...
    def status(self, found: type[SealserveError]) -> str: ...
    def render(self) -> str: ...


@cache
def script() -> Script:
    spec = importlib.util.spec_from_file_location("errors_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Script, module)


def named(found: type[SealserveError]) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def test_there_are_many() -> None:
    assert len(script().causes()) > 250


def test_codes_are_unique() -> None:
    by_code: dict[str, list[str]] = {}
    for found in script().causes():
        by_code.setdefault(found.code, []).append(named(found))
    assert {code: names for code, names in by_code.items() if len(names) > 1} == {}


def test_what_nobody_foresaw_is_internal() -> None:
    assert SealserveError.code == "internal"
    assert [found for found in script().classes() if found.code == "internal"] == [BrokerInternalError]


def test_codes_are_well_formed() -> None:
    code = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.[a-z0-9]+(-[a-z0-9]+)*")
    assert [named(found) for found in script().causes() if not code.fullmatch(found.code)] == []


def test_what_has_no_cause_is_a_family() -> None:
    """A class without a code of its own is there for others to inherit from: nobody raises it."""
    causes = script().causes()
    bare = [found for found in script().classes() if found not in (*causes, *FAMILIES, BrokerInternalError)]
    assert [named(found) for found in bare if not found.__subclasses__()] == []


def test_each_belongs_to_a_family_that_gives_its_status() -> None:
    for found in script().causes():
        (family,) = [family for family in FAMILIES if issubclass(found, family)]
        assert found.exit_status == family.exit_status, named(found)


def test_each_says_what_it_means() -> None:
    assert [named(found) for found in script().causes() if not script().meaning(found).endswith((".", "?"))] == []


def test_the_reference_has_each_with_its_status_and_meaning() -> None:
    page = script().PAGE.read_text(encoding="utf-8")
    rows = (f"| `{found.code}` | {script().status(found)} | {script().meaning(found)} |" for found in script().causes())
    assert [row for row in rows if row not in page] == []
    for family in (InputError, VerificationError, UnavailableError):
        assert f"| {family.exit_status} | `{family.code}`: {script().meaning(family)} |" in page


def test_the_reference_is_what_the_script_writes() -> None:
    assert script().PAGE.read_text(encoding="utf-8") == script().render()


def test_listing_them_imports_no_tensorflow() -> None:
    program = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r})['classes'](); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_test_raises_each() -> None:
    """As far as text can tell: each code stands in some other test, which asserts on it."""
    mentioned = set(re.findall(r"(?<![\w.-])[a-z0-9-]+\.[a-z0-9-]+", other_tests()))
    assert [named(found) for found in script().causes() if found.code not in mentioned] == []


@cache
def other_tests() -> str:
    tests = (path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__))
    return "\n".join(path.read_text(encoding="utf-8") for path in tests)
