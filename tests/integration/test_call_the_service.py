"""The clients on the page "Call the service", run as they stand there against the real model server."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.harness.model_server import SERVICE, Start, Tls
from tests.harness.stock_clients import output

from sealserve import client
from sealserve.client import BundledModel, ClientBundle, SecretBytes
from sealserve.cluster import ports

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow, pytest.mark.timeout(600)]

PAGE: Final = Path(__file__).resolve().parents[2] / "docs/how-to/call-the-service.md"
SECONDS: Final = 300


def block(heading: str, language: str, page: Path = PAGE) -> str:
    """Return the code below a heading of a page."""
    section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, heading
    return str(found[0])


@pytest.fixture
def folder(start: Start, model: Path, tls: Tls, tmp_path: Path) -> Path:
    """Return a folder with ``ann.json``, the bundle of a running server with REST."""
    (tmp_path / "ssl.cfg").write_bytes(tls.settings(two_way=True))
    server = start(
        f"--model_base_path={model}",
        "--model_name=half_plus_two",
        f"--ssl_config_file={tmp_path}/ssl.cfg",
        f"--rest_api_port={ports.find_free()}",
    )
    rest = server.wait_for(r"serving the REST API on 127\.0\.0\.1:(\d+)")[1]
    grpc = server.wait_for(r"serving half_plus_two version 1 on 127\.0\.0\.1:(\d+)")[1]
    made = ClientBundle(
        user="ann",
        grpc=f"127.0.0.1:{grpc}",
        rest=f"127.0.0.1:{rest}",
        server_name=SERVICE,
        ca=tls.service.certificate_pem,
        certificate=tls.client.chain_pem,
        key=SecretBytes(tls.client.key_pem.reveal()),
        models=(BundledModel(name="half_plus_two", version=1),),
    )
    (tmp_path / "ann.json").write_bytes(made.render().reveal())
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_clients_in_python(folder: Path) -> None:
    for heading in ("Python", "Python with `tensorflow-serving-api`"):
        (folder / "call.py").write_text(block(heading, "python"))
        assert run([sys.executable, "call.py"], folder).splitlines()[-1] == "[2.5 3. ]"
    documentation = client.__doc__ or ""
    first = re.search(r"::\n\n((?:        .*\n|\n)+)", documentation)
    assert first is not None
    (folder / "call.py").write_text(re.sub(r"^        ", "", first[1], flags=re.MULTILINE))
    assert run([sys.executable, "call.py"], folder) == "float32\n1 [2.5 3. ]\n"


def test_curl(folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed: apt-get install curl")
    address = ClientBundle.read(folder / "ann.json").rest
    script = block("curl", "sh").replace("127.0.0.1:8501", str(address))
    script = script.replace("sealserve client", f"{sys.executable} -m sealserve client")
    answer = run(["bash", "-ec", script], folder)
    assert re.sub(r"\s", "", answer[answer.index("{") :]) == '{"predictions":[2.5,3.0]}'


def test_grpcurl(folder: Path) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip("grpcurl is not installed: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4")
    run([sys.executable, "-m", "sealserve", "client", "unpack", "ann.json", "--output", "ann"], folder)
    address = ClientBundle.read(folder / "ann.json").grpc
    script = block("grpcurl", "sh").replace("127.0.0.1:8500", str(address))
    answer = json.loads(run(["bash", "-ec", script], folder))
    assert answer["model_spec"]["name"] == "half_plus_two"


def test_tritonclient(folder: Path) -> None:
    page = PAGE.with_name("open-inference.md")
    user = folder / ".sealserve" / "user"
    run([sys.executable, "-m", "sealserve", "client", "unpack", "ann.json", "--output", str(user)], folder)
    bundle = ClientBundle.read(folder / "ann.json")
    triton = block("Python with tritonclient", "python", page).replace("127.0.0.1:8500", str(bundle.grpc))
    (folder / "call.py").write_text(triton.replace("grpc.tf-serving.service.com", SERVICE))
    assert output(folder / "call.py", cwd=folder) == "[2.5 3.  4.5]\n"


def test_go(folder: Path) -> None:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip("Go is not installed: https://go.dev/dl/")
    (folder / "main.go").write_text(block("Go", "go"))
    answer = run([go, "run", "main.go"], folder)
    assert re.sub(r"\s", "", answer) == '{"predictions":[2.5,3.0]}'
