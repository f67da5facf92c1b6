"""Every command there is, run as text, with --json, and with its errors' tracebacks: no output holds a key.

What needs a running service is run in ``tests/e2e/test_secrets.py``; here it fails, and its error is looked at.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.harness.command_line import CommandLine
from tests.harness.deployment_text import with_key
from tests.harness.tiny_model import WEIGHTS
from tests.harness.workspaces import Site
from typer.main import get_command

from sealserve.broker import stored_key
from sealserve.broker.keystore import KeyId
from sealserve.cli.application import app
from sealserve.cli.demo.exposure import Exposure
from sealserve.cli.demo.proof import _spellings
from sealserve.owner import issuing
from sealserve.owner.owner import Owner
from sealserve.pki.ssl_config import SSL_CONFIG_PATH
from sealserve.sealing.codec import unseal_bytes
from sealserve.sealing.release import VerifiedRelease

PASSPHRASE = b"correct horse battery staple"
RAN_IN_E2E = {"demo", "up", "bench", "broker run", "simulated pcs", "simulated platform"}
SLOW = {
    "model make-example",
    "model test",
    "model optimize",
    "image build",
    "image push",
    "enclave inventory",
}  # they know no key: none is opened


def commands(site: Site, key_file: Path, passphrase_file: Path, tmp_path: Path) -> list[tuple[str, list[str | Path]]]:
    """Return a command line for each command, in an order in which they work, and some that fail."""
    owner, sealed = site.workspace.owner, tmp_path / "sealed"
    bundle = tmp_path / "ann.json"
    return [
        ("init", ["--name", "m", "--directory", tmp_path, "--force"]),
        ("doctor", []),
        ("model fetch", ["http://127.0.0.1:1/m", tmp_path / "m", "--sha256", "0" * 64]),
        ("model convert", []),
        ("model show", []),
        ("model lint", []),
        ("certs one-way", []),
        ("certs two-way", []),
        ("certs renew", []),
        ("certs renew-service-ca", []),
        ("certs rotate-issuing", []),
        ("certs show", []),
        ("user add", ["ann"]),
        ("user renew", ["ann"]),
        ("user list", []),
        ("client bundle", ["--for", "ann", "--output", bundle, "--force"]),
        ("client show", [bundle]),
        ("client show", [owner.index_signing_key]),
        ("client unpack", [bundle, "--output", tmp_path / "unpacked"]),
        ("predict", ["--bundle", bundle, "--timeout", "1"]),
        ("user trust", [site.workspace.host.owner_key, "--policy", tmp_path / "policy.toml"]),
        ("user trust", [owner.index_signing_key, "--policy", tmp_path / "policy.toml"]),
        ("predict", ["--require-attested", "--policy", tmp_path / "policy.toml", "--timeout", "1"]),
        ("verify", ["127.0.0.1:1", "--policy", tmp_path / "policy.toml", "--timeout", "1"]),
        ("verify", [owner.index_signing_key, "--policy", tmp_path / "policy.toml"]),
        (
            "receipt verify",
            [
                owner.index_signing_key,
                "--request",
                owner.master_key,
                "--response",
                owner.master_key,
                "--evidence",
                owner.master_key,
                "--policy",
                tmp_path / "policy.toml",
            ],
        ),
        ("proxy", ["--bundle", bundle, "--policy", owner.index_signing_key, "--listen", f"unix:{tmp_path}/p.sock"]),
        ("user revoke", ["ann", "--yes"]),
        ("seal", [owner.master_key, sealed, "--key-file", key_file, "--force"]),
        ("unseal", [sealed, tmp_path / "unsealed", "--key-file", key_file, "--force"]),
        ("unseal", [sealed, tmp_path / "unsealed", "--key-file", owner.master_key, "--force"]),
        ("inspect", [sealed]),
        ("inspect", [owner.master_key]),
        ("release build", []),
        ("release build", ["--sign-model", owner.master_key]),
        ("release verify", []),
        ("release show", []),
        ("release list", []),
        ("release diff", ["m-", "m-"]),
        ("release prune", ["--dry-run"]),
        ("release pack", [tmp_path / "release.tar", "--force"]),
        ("release unpack", [tmp_path / "release.tar"]),
        ("release unpack", [owner.master_key]),
        ("release fetch", ["http://127.0.0.1:1/release.tar"]),
        ("enclave manifest", ["--name", "replica-0", "--port", "8510"]),
        ("enclave build", ["--name", "replica-0", "--port", "8510"]),
        ("enclave show", []),
        ("enclave lint", [owner.master_key]),
        ("enclave remove", ["--name", "replica-9"]),
        ("enclave run", ["--name", "replica-0", "--release", "nothing"]),
        ("enclave token", ["--audience", "a", "--release", "nothing"]),
        ("broker allow", []),
        ("broker releases", []),
        ("broker drain", ["half-plus-two"]),
        ("broker revoke", ["half-plus-two", "--yes"]),
        ("broker log", ["--verify", "--sign"]),
        ("broker status", []),
        ("broker collateral", []),
        ("broker policy show", []),
        ("broker policy check", [owner.master_key]),
        ("broker policy check", [owner.index_signing_key]),
        ("broker policy try", ["strict"]),
        ("broker admin issue", ["alice", "--output", tmp_path / "alice.json"]),
        ("broker admin list", []),
        ("broker admin revoke", ["alice", "--yes"]),
        ("broker platform enrol", ["0" * 32, "--label", "machine"]),
        ("broker platform list", []),
        ("broker platform withdraw", ["0" * 32, "--yes"]),
        ("broker pending", []),
        ("broker approve", ["half-plus-two", "0" * 32]),
        ("broker accept-database", ["--yes"]),
        ("broker import", []),
        ("broker notify-test", []),
        ("broker token keys", []),
        (
            "broker token verify",
            [owner.token_signing_key, "--jwks", owner.token_keys, "--issuer", "i", "--audience", "a"],
        ),
        (
            "broker token verify",
            [owner.token_keys, "--jwks", owner.token_signing_key, "--issuer", "i", "--audience", "a"],
        ),
        ("broker token rotate", ["--yes", "--compromised"]),
        ("broker rotate-master", []),
        ("broker rotate-master", ["--passphrase-file", passphrase_file]),
        ("broker releases", []),  # a passphrase is needed now
        ("broker rotate-master", ["--no-passphrase"]),
        ("backup", [tmp_path / "backup", "--force"]),
        ("restore", [tmp_path / "backup", "--master-key", owner.master_key, "--directory", tmp_path / "again"]),
        ("restore", [tmp_path / "backup", "--master-key", key_file, "--directory", tmp_path / "never"]),
        ("quote show", [owner.master_key]),
        ("quote verify", [owner.index_signing_key]),
        ("render nginx", ["--replica", "127.0.0.1:1"]),
        ("render docker", []),
        ("render kubernetes", []),
        ("render monitoring", ["--output", tmp_path / "monitoring"]),
        ("cloud list", []),
        ("cloud show", ["alibaba-g7t"]),
        ("cloud qcnl", ["alibaba-g7t", "--region", "cn-hangzhou"]),
        ("status", []),
        ("logs", []),
        ("scale", ["1"]),
        ("predict", ["--input", "x=[1]", "--timeout", "1"]),
        ("predict", ["--input", "x=[1]", "--key", owner.master_key, "--cert", site.workspace.user.certificate]),
        ("down", ["--yes"]),
        ("service install", ["broker", "--print"]),
        ("service uninstall", ["broker", "--yes"]),
    ]


def commands_with_an_owners_tls_key(tmp_path: Path) -> list[tuple[str, list[str | Path]]]:
    """Return the commands for a release that contains the service's TLS key (server.dangerous_owner_tls_key)."""
    return [
        ("release build", []),
        ("release verify", []),
        ("release show", []),
        ("release list", []),
        ("release pack", [tmp_path / "release.tar", "--force"]),
        ("enclave manifest", ["--name", "replica-0", "--port", "8510"]),
        ("enclave build", ["--name", "replica-0", "--port", "8510"]),
        ("broker allow", []),
        ("broker releases", []),
        ("certs renew", []),
        ("certs show", []),
        ("certs rotate-issuing", []),
        ("doctor", []),
        ("status", []),
    ]


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """Yield each command and its options."""
    if hasattr(command, "commands"):
        for name in command.list_commands(None):
            yield from leaves(command.get_command(None, name), (*path, name))
    else:
        yield " ".join(path), {option for parameter in command.params for option in parameter.opts}


def secrets_of(site: Site, more: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Return all secrets of the workspace, in every spelling."""
    found = [("the weights", WEIGHTS)]
    master_key = site.workspace.owner.master_key
    values = {**more, "the master key": master_key.read_bytes()[:32]}
    if (row_key := site.workspace.owner.row_key).exists():
        values["the key of rows"] = bytes.fromhex(row_key.read_text())
    for path in (*site.workspace.owner.root.rglob("*"), *site.workspace.user.root.rglob("*")):
        if path.is_file() and b"PRIVATE KEY-----" in (pem := path.read_bytes()):
            body = b"".join(pem.splitlines()[1:-1])
            found.append((path.name, body[32:]))  # what comes before is the same in every key of its kind
            values[path.name] = base64.b64decode(body)[-32:]
            private_key = serialization.load_pem_private_key(pem, password=None)
            if isinstance(private_key, ec.EllipticCurvePrivateKey):  # its file ends with the public key
                size = (private_key.key_size + 7) // 8
                values[path.name] = private_key.private_numbers().private_value.to_bytes(size, "big")
    with Owner.open(site.workspace).vault() as vault, vault.database.read() as connection:
        issuing_key = KeyId(issuing.read_certificate(site.workspace).key_id)
        values[f"the issuing key {issuing_key}"] = vault.keystore.decrypt(
            stored_key.find_issuing(connection, issuing_key)
        ).reveal()
        for folder in site.workspace.owner.releases.iterdir():
            key_id = KeyId(json.loads((folder / "release.json").read_bytes())["key_id"])
            key = vault.keystore.load(connection, key_id)
            values[f"the key of {folder.name}"] = key.reveal()
            if not (folder / SSL_CONFIG_PATH).exists():  # each enclave creates its TLS key
                continue
            config = unseal_bytes(folder / SSL_CONFIG_PATH, key=key, embedded_path=SSL_CONFIG_PATH).reveal()
            body = config.partition(b"PRIVATE KEY-----")[2].partition(b"-----END")[0].replace(b"\\n", b"")
            found.append((f"the server key of {folder.name}", body[32:]))
    for name, value in values.items():
        found += _spellings(name, value)
    return found


def private(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def test_no_output_of_any_command_holds_a_key(
    cli: CommandLine,
    site: Site,
    released: VerifiedRelease,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sealserve.broker.master_key._COST", 2**14)
    monkeypatch.setenv("SEALSERVE_DEBUG", "1")  # what is unforeseen would be told with its traceback
    assert released.folder.is_dir()
    key_file = private(tmp_path / "wrap.key", bytes(range(100, 116)))
    passphrase_file = private(tmp_path / "passphrase", PASSPHRASE)
    options = dict(leaves(get_command(app)))
    lines = commands(site, key_file, passphrase_file, tmp_path)
    known = {name for name, _ in lines} | RAN_IN_E2E | SLOW
    assert set(options) - known == set(), "add a new command to `commands` above: what it prints is searched for keys"
    assert known - set(options) == set()

    outputs: list[tuple[str, bytes]] = []
    more = {"the wrap key": key_file.read_bytes(), "the passphrase": PASSPHRASE}
    secrets = secrets_of(site, more)

    def run(name: str, arguments: list[str | Path]) -> None:
        for form in ([], ["--json"]) if "--json" in options[name] else ([],):
            given = [*name.split(), *arguments, *form]
            here = "--directory" in options[name] and "--directory" not in given
            result = (cli if here else cli.bare)(*given)
            assert "This is a bug in sealserve" not in result.err, result
            outputs.append((" ".join(map(str, given)), f"{result.out}\n{result.err}".encode()))
        if name in (
            "broker rotate-master",
            "broker accept-database",
            "certs renew",
            "certs rotate-issuing",
            "release build",
        ) and "passphrase" not in str(arguments):
            secrets.extend(secrets_of(site, {}))

    for name, arguments in lines:
        run(name, arguments)
    described = site.workspace.deployment_file
    text = with_key(described.read_text(), "keystore.passphrase_file", f'"{passphrase_file}"')
    described.write_text(with_key(text, "server.dangerous_owner_tls_key", "true"))
    cli.ok("broker", "rotate-master", "--no-passphrase")  # above, no file named the passphrase
    for name, arguments in commands_with_an_owners_tls_key(tmp_path):
        run(name, arguments)

    search = Exposure(secrets)
    for name, secret in secrets:  # had one been printed, it would have been found
        assert search.search_bytes(b"key: " + secret + b"\n", Path(name)) is not None
    for name, content in outputs:
        assert search.search_bytes(content, Path(name)) is None, name
        assert b"PRIVATE KEY" not in content, name
    assert len(outputs) > 80
    assert len(secrets) > 60
    for kind in ("the server key of ", "the issuing key ", "the key of "):
        assert any(name.startswith(kind) for name, _ in secrets), kind
