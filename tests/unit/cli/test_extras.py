"""The base installation is the client; a command that needs more names the extra to install."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from sealserve.cli.application import VERBS
from sealserve.cli.extras import PACKAGES, missing_extra

ROOT = Path(__file__).parents[3]
# What each verb is called with, so that it gets as far as it can in an empty folder. Without the extras, some verbs end
# with another error than that of a missing extra.
OWNERS: Final = {
    "backup": ["out"], "broker": ["releases"], "demo": [], "doctor": [], "down": [], "enclave": ["list"], "init": [],
    "logs": [], "model": ["show"], "quote": ["show", "no-such-file"], "release": ["list"], "render": ["kubernetes"],
    "restore": ["no-such-file"], "scale": ["2"], "service": ["install", "broker"], "status": [], "up": [],
    "user": ["list"],
}  # fmt: skip
CLIENTS: Final = {
    "bench": [], "certs": ["show"], "client": ["show", "no-such-file"], "cloud": ["list"], "image": ["build"],
    "inspect": ["no-such-file"], "predict": [], "proxy": [],
    "receipt": ["verify", "r", "--request", "q", "--response", "a", "--evidence", "e"],
    "seal": ["no-such-file", "out", "--key-file", "k"],
    "simulated": ["pcs"], "unseal": ["no-such-file", "out", "--key-file", "k"], "verify": ["127.0.0.1:1"],
}  # fmt: skip
WITHOUT = """
import contextlib, importlib.abc, io, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from sealserve.cli.application import run
answer = {{}}
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        status = run(arguments)
    answer[arguments[0]] = (status, " ".join(said.getvalue().split()))
json.dump(answer, sys.stdout)
"""


def extras() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return found


def without_extras(verbs: dict[str, list[str]], directory: Path) -> dict[str, tuple[int, str]]:
    """Run verbs as in a base installation, where what the extras have is absent. Return status and standard error."""
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=set(PACKAGES))],
        input=json.dumps([[verb, *arguments] for verb, arguments in verbs.items()]),
        capture_output=True, text=True, check=True, cwd=directory,
    )  # fmt: skip
    answer: dict[str, tuple[int, str]] = json.loads(result.stdout)
    return answer


def test_each_package_of_an_extra_is_known_with_its_extra() -> None:
    own = {
        (re.split(r"[=>\[]", requirement)[0].lower(), extra)
        for extra, requirements in extras().items()
        for requirement in requirements
        if not requirement.startswith("sealserve[")
    }
    assert own == {(package.lower(), extra) for package, extra in PACKAGES.values()}


def test_all_has_every_extra() -> None:
    assert extras()["all"] == ["sealserve[kubernetes,model-signing,pkcs11,postgresql,server]"]
    needing = {extra for extra, needs in extras().items() if "sealserve[owner]" in needs}
    assert needing == {"kubernetes", "model-signing", "pkcs11", "postgresql", "server"}


def test_a_module_of_no_extra_is_not_explained() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'nothing'", name="nothing"), "up") is None
    assert missing_extra(ModuleNotFoundError(), "up") is None


def test_each_verb_is_tested() -> None:
    assert {*OWNERS, *CLIENTS} == set(VERBS)


def test_a_verb_without_its_extra_names_it(tmp_path: Path) -> None:
    for verb, (status, said) in without_extras(OWNERS, tmp_path).items():
        extra = "server" if verb == "demo" else "owner"
        assert (verb, status) == (verb, 4), said
        assert said.startswith(f"error[install.extra]: `sealserve {verb}` needs the Python package ")
        assert said.endswith(
            "which is not installed. "
            f"Install the extra '{extra}': `pip install 'sealserve[{extra}]'`. In a checkout: `make setup`."
        )
    assert list(tmp_path.iterdir()) == []


def test_a_verb_of_the_base_installation_starts_without_extras(tmp_path: Path) -> None:
    for verb, (_, said) in without_extras(CLIENTS, tmp_path).items():
        assert "install.extra" not in said, verb
        assert "this is a bug" not in said, verb


def test_the_program_names_the_extra_too(tmp_path: Path) -> None:
    """In the program, unlike above, the imports wait until the command runs."""
    absent = WITHOUT.partition("from sealserve")[0].format(absent=set(PACKAGES))
    command = [sys.executable, "-c", f"{absent}from sealserve.cli import main\nmain()", "broker", "releases", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, json.loads(result.stdout)["error"]["code"]) == (4, "install.extra")


def test_a_user_trusts_an_owner_without_extras(tmp_path: Path) -> None:
    """The other commands of `sealserve user` are the owner's and need the extra."""
    absent = WITHOUT.partition("from sealserve")[0].format(absent=set(PACKAGES))
    policy = tmp_path / "policy.toml"
    command = [sys.executable, "-c", f"{absent}from sealserve.cli import main\nmain()", "user", "trust", "ab" * 32,
               "--policy", str(policy)]  # fmt: skip
    subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert tomllib.loads(policy.read_text())["owner_keys"] == ["ab" * 32]
