"""The wheel in empty virtual environments, without a checkout: what a user, an owner and a host install.

pip uses the package index that this machine has configured for pip. Without an index, the tests are skipped.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.harness.missing import missing
from tests.harness.running import short_folder
from tests.harness.tiny_model import saved_model

from sealserve import __version__

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow, pytest.mark.timeout(1500)]

ROOT: Final = Path(__file__).parents[2]
NO_INDEX: Final = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|Max retries exceeded|ProxyError")


class Environment:
    """A virtual environment with sealserve in it.

    Args:
        folder: Where it is created.
        requirement: What pip installs.
    """

    def __init__(self, folder: Path, requirement: str) -> None:
        self._programs = folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.install(requirement)

    def install(self, *arguments: str) -> None:
        """Run ``pip install``."""
        pip = [str(self._programs / "python"), "-m", "pip", "--no-input", "--disable-pip-version-check"]
        done = self._run(*pip, "install", "--quiet", *arguments)
        if done.returncode != 0 and NO_INDEX.search(done.stderr):
            missing("pip does not reach a package index")
        assert done.returncode == 0, done.stderr

    def sealserve(self, *arguments: str | Path, status: int = 0) -> Any:
        """Run a verb with ``--json``, and return its answer."""
        done = self._run(self._programs / "sealserve", *arguments, "--json")
        assert done.returncode == status, done
        return json.loads(done.stdout)

    def python(self, code: str) -> str:
        """Run Python code, and return what it prints."""
        done = self._run(self._programs / "python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment.pop("VIRTUAL_ENV", None)
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self._programs, env=environment, timeout=1200
        )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, ROOT / "scripts" / "dist.py", "--output", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(wheels: Path) -> Path:
    (found,) = wheels.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("client"), str(wheel))


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as found:
        yield found


def test_a_client_gets_an_answer_from_a_service_of_an_installed_server(
    client: Environment, wheel: Path, tmp_path: Path, folder: Path
) -> None:
    server = Environment(tmp_path / "server", f"{wheel}[server]")
    here = ("--directory", folder / "demo")
    server.sealserve("demo", *here, "--model", saved_model(folder / "half-plus-two"), "--keep")
    try:
        server.sealserve("client", "bundle", "--output", folder / "user.json", *here)
        question = ("--bundle", folder / "user.json", "--input", "x=[1.0, 2.0]")
        assert client.sealserve("predict", *question)["outputs"]["y"] == [2.5, 3.0]
        answer = client.python(
            "import numpy as np\nfrom sealserve.client import Client\n"
            f"with Client.from_bundle({str(folder / 'user.json')!r}) as client:\n"
            "    print(client.predict({'x': np.array([1.0, 2.0], np.float32)})['y'])"
        )
        assert answer == "[2.5 3. ]"
    finally:
        server.sealserve("down", "--yes", *here)


def test_the_base_installation_is_the_client(client: Environment) -> None:
    assert client.python("import sealserve; print(sealserve.__version__)") == __version__
    error = client.sealserve("demo", status=4)["error"]
    assert error["code"] == "install.extra"
    assert error["hint"].startswith("Install the extra 'server': `pip install 'sealserve[server]'`.")
    code = "from importlib.util import find_spec\nprint([n for n in {!r} if find_spec(n)])"
    assert client.python(code.format(["aiohttp", "cbor2", "httpx", "sqlalchemy", "tensorflow", "yaml"])) == "[]"
    code = "import sealserve.attested.evidence_conversation as m; print(m.PATH)"  # a user can verify a service
    assert client.python(code) == "/.well-known/sealserve/evidence"


def test_the_extra_that_an_error_names_can_be_installed(wheel: Path, tmp_path: Path, folder: Path) -> None:
    owner = Environment(tmp_path / "owner", str(wheel))
    assert owner.sealserve("init", "-C", folder, status=4)["error"]["code"] == "install.extra"
    owner.install("sealserve[owner]")
    owner.sealserve("init", "-C", folder, "--model", saved_model(folder / "half-plus-two"))
    assert owner.sealserve("release", "list", "-C", folder) == []


def test_sealed_files_without_the_native_cipher(client: Environment, wheels: Path, tmp_path: Path) -> None:
    """The sdist is built without a compiler here, and its cipher in Python opens what the native cipher sealed."""
    name = "from sealserve.sealing import node_cipher; print(node_cipher.DEFAULT.name)"
    if client.python(name) != "native":
        pytest.skip("needs a C compiler and headers (apt-get install gcc libc6-dev libssl-dev python3-dev)")
    (tmp_path / "plain").write_bytes(bytes(range(256)) * 100)
    key = ("--key-file", tmp_path / "key")
    client.sealserve("seal", tmp_path / "plain", tmp_path / "sealed", *key, "--new-key")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEALSERVE_NATIVE", "off")
        (sdist,) = wheels.glob("*.tar.gz")
        slow = Environment(tmp_path / "slow", str(sdist))
    assert slow.python(name) == "python"
    slow.sealserve("unseal", tmp_path / "sealed", tmp_path / "opened", *key)
    assert (tmp_path / "opened").read_bytes() == (tmp_path / "plain").read_bytes()
