"""No secret leaves the owner's and the user's folders: not in an output, a file, an argument or an environment."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.harness.command_line import Result
from tests.harness.leftovers import processes_of
from tests.harness.running import Running, deployment
from tests.harness.tiny_model import WEIGHTS

from sealserve.broker.keystore import KeyId
from sealserve.cli.demo.exposure import Exposure, files_under
from sealserve.cli.demo.proof import _spellings
from sealserve.owner.owner import Owner
from sealserve.secret import SecretBytes

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]

PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Running]:
    """A deployment that does not run yet."""
    with deployment(capsys) as running:
        yield running


def private_value(key_pem: SecretBytes) -> bytes:
    """Return the private number of an elliptic-curve key. The rest of the key's encoding is the same in every key."""
    key = serialization.load_pem_private_key(key_pem.reveal(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")


def secrets_of(here: Running, key_id: str) -> list[tuple[str, bytes]]:
    """Return what must not be seen, in every spelling: the release key, private keys, the model's weights."""
    workspace = here.site.workspace
    with Owner.open(workspace).vault() as vault, vault.database.read() as connection:
        key = vault.keystore.load(connection, KeyId(key_id))
    keys = {str(path): SecretBytes(path.read_bytes()) for path in workspace.owner.root.rglob("*.key")}
    elliptic = {name: pem for name, pem in keys.items() if PRIVATE_KEY.search(pem.reveal())}
    found = _spellings("the release key", key.reveal())
    found += _spellings("the master key", workspace.owner.master_key.read_bytes())
    found += _spellings("the user's key", private_value(SecretBytes(workspace.user.key.read_bytes())))
    for name, pem in elliptic.items():
        found += _spellings(name, private_value(pem))
    for path in (workspace.owner.enclave_signing_key, workspace.owner.index_signing_key):
        body = b"".join(path.read_bytes().splitlines()[1:-1])
        found.append((path.name, body[32:]))  # what comes before is the same in every key of its kind
    assert len(elliptic) >= 4
    return [*found, ("the weights", WEIGHTS)]


def test_no_secret_is_seen_from_the_first_verb_to_the_last(here: Running) -> None:
    outputs: dict[str, Result] = {}

    def verb(*arguments: str, status: int = 0) -> Result:
        result = here(*arguments)
        assert result.status == status, result
        outputs[" ".join(arguments)] = result
        return result

    verb("certs", "two-way")
    verb("certs", "show", "--json")
    verb("model", "convert")
    verb("model", "show", "--json")
    release = verb("release", "build", "--json").json
    verb("release", "show")
    verb("release", "list")
    up = here.process("up", "--replicas", "1")
    assert up.status == 0, up
    outputs["up"] = Result(status=up.status, out=up.out, err=up.err)
    for line in ("status", "enclave show", "enclave manifest", "predict", "bench -n 5", "broker log --verify",
                 "broker status", "broker releases --json", "logs --last 10000", "release verify --host",
                 "render nginx --replica 127.0.0.1:1", "doctor --json"):  # fmt: skip
        verb(*line.split())
    verb("release", "show", "nothing", status=2)
    verb("predict", "--input", "x=[", status=2)

    search = Exposure(secrets_of(here, release["key_id"]))
    parts = processes_of(here.directory)
    assert len(parts) >= 6
    for part in parts:
        for name in ("cmdline", "environ"):
            content = Path(f"/proc/{part.pid}/{name}").read_bytes()
            assert search.search_bytes(content, Path(f"{part.command}/{name}")) is None
            assert not PRIVATE_KEY.search(content)
    verb("down", "--yes")
    assert "The deployment is not running" in here("status").out

    for name, result in outputs.items():
        content = f"{result.out}\n{result.err}".encode()
        assert search.search_bytes(content, Path(name)) is None
        assert not PRIVATE_KEY.search(content), name

    workspace = here.site.workspace
    roots = [workspace.host.root, workspace.owner.logs, *(path for path in workspace.root.iterdir() if path.is_file())]
    assert search.search(roots) == []
    files = list(files_under(roots))
    assert len(files) > 15
    holding = {path for path in files if PRIVATE_KEY.search(path.read_bytes())}
    assert {path.parent for path in holding} == {workspace.host.platform}  # the simulated processor's own
    assert {path.name for path in workspace.root.iterdir() if path.is_dir()} == {"owner", "host", "user", "vendor"}


def test_the_search_finds_what_it_is_meant_to_find(tmp_path: Path) -> None:
    """A search that finds nothing shows nothing, unless it would have found it."""
    key = bytes(range(16))
    search = Exposure(_spellings("key", key))
    for spelled in (key, key.hex().encode(), key.hex().upper().encode()):
        (tmp_path / "log").write_bytes(b"2026 INFO key=" + spelled)
        assert len(search.search([tmp_path])) == 1
