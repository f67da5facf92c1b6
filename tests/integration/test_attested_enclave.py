"""A simulated enclave that attests itself, from build to end, with a small broker. The launcher is a separate process.

The program inside is the real one up to the server. In place of the server, it shows what it sees.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scripts.attested_example import KEY, Example
from tests.harness import keys
from tests.harness.attest_broker import AttestBroker, Behaviour, grant, refuse
from tests.harness.gramine import needs_gramine_direct

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.findings import Danger
from sealserve.enclave.inventory import GramineFiles, MeasuredFile, measure
from sealserve.enclave.signing import build_enclave
from sealserve.enclave.spec import EnclaveSpec, release_mounts
from sealserve.owner.enclaves import inventory_here
from sealserve.sealing.release import Release, ReleaseContents, Servable, build_release
from sealserve.secret import SecretBytes
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import QuotingServer
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.terms import ServerKind

pytestmark = pytest.mark.integration

MODEL = b"the model's weights " * 1000
PROGRAM = """
import os, pathlib, sys
from sealserve.attester.enclave_keys import EnclaveKeys
from sealserve.attester.measured import measured_settings
from sealserve.attester.program import Enclave, attested_identity
from sealserve.errors import SealserveError
from sealserve.serving import log
log.configure()
mounts = [pathlib.Path("/release", name) for name in ("models", "tls", "files.json")]
print("before", [path.exists() for path in mounts])
try:
    identity = attested_identity(os.environ)
except SealserveError as error:
    print(f"error[{error.code}]: {error}", file=sys.stderr)
    sys.exit(error.exit_status)
print("after", [path.exists() for path in mounts])
print("model", pathlib.Path("/release/models/tiny/1/saved_model.pb").read_bytes()[:19].decode())
print("evidence", len(identity.evidence(bytes(32))) > 1000)
print("variables", *sorted(os.environ))
sys.exit(3)
"""
LAUNCHER = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
from sealserve.enclave.findings import Danger
from sealserve.enclave.simulated.gramine_direct import run_gramine_direct
from sealserve.enclave.simulated.launcher import run_enclave
from sealserve.errors import SealserveError
try:
    run = run_gramine_direct if "--direct" in sys.argv else run_enclave
    sys.exit(run(Path(sys.argv[1]), "replica-0", quoting_socket=Path(sys.argv[2]), dangerous=[Danger.OTHER_PROGRAM]))
except SealserveError as error:
    print(f"error[{error.code}]: {error}", file=sys.stderr)
    sys.exit(error.exit_status)
"""


@dataclass(frozen=True)
class World:
    """A release with a built enclave, and the quoting service."""

    release: Release
    broker: AttestBroker
    quoting: Path

    def run(self, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LAUNCHER, str(self.release.folder), str(self.quoting), *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    now = datetime.now(UTC)
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(MODEL)
    index_key = Ed25519PrivateKey.generate()
    contents = ReleaseContents(
        name="tiny",
        servables=[Servable(name="tiny", version=1, folder=model)],
        files={"tls/clients.cfg": b"client_verify: true"},
        simulated=True,
        created=now,
    )
    release = build_release(contents, tmp_path, key=SecretBytes(KEY), key_id="0" * 32, signer=index_key)
    example = Example(tmp_path / "example")
    example.release_id = release.id
    platform = SimulatedPlatform.create(Vendor.create(tmp_path / "vendor", now=now), tmp_path / "platform", now=now)
    with (
        AttestBroker(example) as broker,
        tempfile.TemporaryDirectory(prefix="se-") as folder,
        QuotingServer(platform, Path(folder) / "quoting.sock"),
    ):

        def make(
            *behaviours: Behaviour,
            gramine: GramineFiles | None = None,
            program: str = PROGRAM,
            trusted: tuple[MeasuredFile, ...] | None = None,
        ) -> World:
            broker.behaviours = behaviours or (grant,)
            spec = EnclaveSpec(
                name="replica-0",
                release_id=release.id,
                argv=(sys.executable, "-I", "-c", program, "/release"),
                broker=broker.place,
                mounts=release_mounts(release.folder),
                trusted_files=measure([sys.executable]) if trusted is None else trusted,
                gramine=gramine,
                simulated=True,
                attests=True,
            )
            build_enclave(
                release.folder,
                spec,
                broker_ca=broker.ca,
                signing_key=keys.signing_key(),
                index_signer=index_key,
                signed_on=date(2026, 11, 29),
                dangerous=[Danger.OTHER_PROGRAM],
            )
            return World(release, broker, Path(folder) / "quoting.sock")

        yield make


def assert_nothing_remains(log: str) -> None:
    folders = re.findall(r"step=private-memory method=\S+ folder=(\S+)", log)
    assert folders
    assert not [folder for folder in folders if Path(folder).exists()]


def test_an_enclave_attests_itself_and_opens_its_files(world: Callable[..., World]) -> None:
    result = world().run()

    assert result.returncode == 3, result.stderr
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert lines["before"] == "[False, False, False]"
    assert lines["after"] == "[True, True, True]"
    assert lines["model"] == "the model's weights"
    assert lines["evidence"] == "True"
    assert "LD_PRELOAD" not in lines["variables"]
    steps = re.findall(r"step=(\S+)", result.stderr)
    assert steps == ["measured", "trusted-files", "private-memory", "server", "broker", "quote", "mounts", "key",
                     "quote", "ended"]  # fmt: skip
    assert KEY.hex() not in result.stderr + result.stdout
    assert_nothing_remains(result.stderr)


def test_a_refused_enclave_opens_nothing_and_states_the_reason(world: Callable[..., World]) -> None:
    result = world(refuse(final=True)).run()

    assert result.returncode == 3, result.stderr
    assert "error[attest.refused]: The broker rejects this enclave. The broker's reference is row-17." in result.stderr
    assert "after" not in result.stdout
    assert "step=mounts" not in result.stderr
    assert_nothing_remains(result.stderr)


def test_a_sealed_file_that_the_host_changed_ends_the_start(world: Callable[..., World]) -> None:
    made = world()
    path = made.release.folder / "models/tiny/1/saved_model.pb"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)

    result = made.run()

    assert result.returncode == 3, result.stderr
    assert "error[attester.device]: The attestation device did not accept the key" in result.stderr  # inside
    assert re.search(
        r"error\[(?!attester)[a-z.-]+\]: .*saved_model\.pb", result.stderr
    )  # outside, and the final reason
    assert_nothing_remains(result.stderr)


# What gramine-direct does with a manifest, as far as it matters here. It has no files for quotes, and opens the sealed
# files with the key that the program wrote.
DIRECT = """
import os, sys, tempfile, tomllib
host = sorted(os.environ.keys() - {"LC_CTYPE"})  # before the imports below set variables
from pathlib import Path
from sealserve.attester.program import attested_identity
from sealserve.errors import SealserveError
from sealserve.sealing.codec import unseal_bytes
from sealserve.secret import SecretBytes
from sealserve.serving import log
log.configure()
manifest = tomllib.loads(Path(sys.argv[1] + ".manifest").read_text())
environment = manifest["loader"]["env"]
print("device", environment["SEALSERVE_ATTESTATION_DEVICE"])
print("key", "insecure__keys" in manifest["fs"])
print("environment", host)
with tempfile.TemporaryDirectory() as folder:
    keys = Path(folder, "keys")
    keys.mkdir()
    broker_ca = str(Path("enclave/broker-ca.pem").absolute())
    inside = {"SEALSERVE_ATTESTATION_DEVICE": folder, "SECRET_PROVISION_CA_CHAIN_PATH": broker_ca}
    try:
        identity = attested_identity(environment | inside)
    except SealserveError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    path = "models/tiny/1/saved_model.pb"
    with unseal_bytes(Path(path), key=SecretBytes((keys / "release").read_bytes()), embedded_path=path) as model:
        print("model", model.reveal()[:19].decode())
    print("files", [found.name for found in Path(folder).iterdir()])
print("evidence", len(identity.evidence(bytes(32))) > 1000)
sys.exit(3)
"""


@pytest.fixture
def gramine_direct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GramineFiles:
    """Puts a stand-in for gramine-direct on the search path, and returns the files of a Gramine."""
    program = tmp_path / "bin/gramine-direct"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{DIRECT}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    folder = "/usr/lib/x86_64-linux-gnu/gramine"
    libos, libpal = (
        MeasuredFile(path=f"{folder}/{name}", size=1, sha256="a" * 64) for name in ("libsysdb.so", "sgx/libpal.so")
    )
    return GramineFiles(folder=folder, libos=libos, libpal=libpal)


def test_gramine_direct_gets_relayed_quotes_and_opens_the_files(
    world: Callable[..., World], gramine_direct: GramineFiles
) -> None:
    result = world(gramine=gramine_direct).run("--direct")

    assert result.returncode == 3, result.stderr
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert lines == {
        "device": "/dev/attestation",
        "key": "False",
        "environment": "['PATH']",
        "model": "the model's weights",
        "files": "['keys']",
        "evidence": "True",
    }
    steps = re.findall(r"step=(\S+)", result.stderr)
    assert sorted(steps) == ["broker", "ended", "key", "measured", "quote", "quote", "server"]
    assert KEY.hex() not in result.stderr + result.stdout


def test_a_refusal_in_gramine_direct_states_the_reason(
    world: Callable[..., World], gramine_direct: GramineFiles
) -> None:
    result = world(refuse(final=True), gramine=gramine_direct).run("--direct")

    assert result.returncode == 3, result.stderr
    assert "error[attest.refused]: The broker rejects this enclave. The broker's reference is row-17." in result.stderr
    assert "model" not in result.stdout


def test_gramine_direct_needs_gramines_files_and_program(
    world: Callable[..., World], gramine_direct: GramineFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = world().run("--direct")

    assert result.returncode == 2, result.stderr
    assert f"error[{EnclaveCode.WITHOUT_GRAMINE}]: " in result.stderr

    monkeypatch.setenv("PATH", "/none")
    result = world(gramine=gramine_direct).run("--direct")

    assert result.returncode == 4, result.stderr
    assert f"error[{EnclaveCode.GRAMINE_LOADER_MISSING}]: gramine-direct is not installed" in result.stderr


# A program for the real library OS. It looks up no path of a mount before the key is there.
INSIDE = """
import os, sys
from pathlib import Path
from sealserve.attester.enclave_keys import EnclaveKeys
from sealserve.attester.measured import measured_settings
from sealserve.attester.program import Enclave
from sealserve.errors import SealserveError
from sealserve.serving import log
log.configure()
print("device", sorted(os.listdir("/dev/attestation")), os.listdir("/dev/attestation/keys"))
settings = measured_settings(os.environ)
enclave = Enclave(settings, EnclaveKeys.create(settings.release_id))
try:
    granted = enclave.attest("start", limit=0)
    enclave.open_mounts(granted)
except SealserveError as error:
    print(f"error[{error.code}]: {error}", file=sys.stderr)
    sys.exit(error.exit_status)
print("evidence", len(enclave.evidence(granted.grant).quote) > 1000)
try:
    print("model", Path("/release/models/tiny/1/saved_model.pb").read_bytes()[:19].decode())
except OSError as error:
    print("model", error.strerror)
print("renewal", enclave.attest("renewal", limit=0).key is None)
print("host", Path("/etc/passwd").exists())
sys.exit(3)
"""


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """The installed Gramine and this Python environment without TensorFlow, as arguments of ``world``."""
    inventory = inventory_here(ServerKind.EMBEDDED)
    trusted = tuple(file for file in inventory.files if "/site-packages/tensorflow" not in file.path)
    return {"gramine": inventory.gramine, "trusted": trusted, "program": INSIDE}


@needs_gramine_direct
def test_the_real_library_os_opens_its_mounts_with_the_key_from_the_broker(
    world: Callable[..., World], real: dict[str, Any]
) -> None:
    result = world(**real).run("--direct")

    assert result.returncode == 3, result.stderr
    # Gramine writes standard error to standard output.
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines() if " step=" not in line)
    assert lines == {
        "device": "['keys'] ['release']",
        "evidence": "True",
        "model": "the model's weights",
        "renewal": "True",
        "host": "False",
    }
    assert KEY.hex() not in result.stderr + result.stdout


@needs_gramine_direct
def test_the_real_library_os_gets_no_key_from_a_broker_that_rejects_it(
    world: Callable[..., World], real: dict[str, Any]
) -> None:
    made = world(refuse(final=True), **real)

    result = made.run("--direct")

    assert result.returncode == 3, result.stderr
    assert "error[attest.refused]: The broker rejects this enclave. The broker's reference is row-17." in result.stdout
    assert "model" not in result.stdout


@needs_gramine_direct
def test_the_real_library_os_does_not_open_a_file_that_the_host_changed(
    world: Callable[..., World], real: dict[str, Any]
) -> None:
    made = world(**real)
    path = made.release.folder / "models/tiny/1/saved_model.pb"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)

    result = made.run("--direct")

    assert result.returncode == 3, result.stderr
    assert "model Permission denied" in result.stdout
