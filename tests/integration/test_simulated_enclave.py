"""A simulated enclave from build to end. Each launcher runs in a separate process, with the test's own small broker.

The server inside is a few lines of Python: they show what it sees, and wait to be told to stop.
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL, crypto
from tests.harness import keys

from sealserve.attestation.ra_tls import check_binding, parse_certificate
from sealserve.attestation.secret_provisioning import ProvisioningServer
from sealserve.enclave.findings import Danger
from sealserve.enclave.index import BuiltEnclave
from sealserve.enclave.inventory import GramineFiles, MeasuredFile, measure
from sealserve.enclave.signing import build_enclave, resign
from sealserve.enclave.spec import EnclaveSpec, release_mounts
from sealserve.sealing.release import Release, ReleaseContents, Servable, build_release
from sealserve.secret import SecretBytes
from sealserve.sgx.quote import Quote
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import QuotingServer
from sealserve.sgx.simulated.vendor import Vendor

pytestmark = pytest.mark.integration

KEY = SecretBytes(bytes(range(16)))
MODEL = b"the model's weights " * 1000
SETTINGS = b"the server's private key"
SIGNED_ON = date(2026, 11, 23)
SERVER = """
import hashlib, os, pathlib, signal, sys
root = pathlib.Path(sys.argv[1])
for path in sorted(root.rglob("*")):
    if path.is_file():
        print("file", path.relative_to(root), hashlib.sha256(path.read_bytes()).hexdigest())
for name in sorted(os.environ):
    print("variable", name, os.environ[name])
print("arguments", *sys.argv[1:])
print("mode", oct(root.stat().st_mode & 0o777), "cwd", os.getcwd(), "stdin", sys.stdin.read() == "")
if sys.argv[2] == "wait":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # `sigwait` loses none that came before it
    print("pid", os.getpid())
    print("ready", flush=True)
    signal.sigwait([signal.SIGTERM])
    sys.exit(7)
sys.exit(3)
"""
LAUNCHER = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
from sealserve.enclave.findings import Danger
from sealserve.enclave.simulated.launcher import run_enclave
from sealserve.errors import SealserveError
try:
    sys.exit(run_enclave(Path(sys.argv[1]), sys.argv[2], quoting_socket=Path(sys.argv[3]), broker_timeout=20,
                         dangerous=[Danger.OTHER_PROGRAM],
                         exit_with_parent="--exit-with-parent" in sys.argv))
except SealserveError as error:
    print(f"error[{error.code}] {error}", file=sys.stderr)
    sys.exit(error.exit_status)
"""
# A container's default seccomp profile, as far as it matters here: unshare gives EPERM (x86-64).
NO_UNSHARE = """
import ctypes, struct
program = [(0x20, 0, 0, 0), (0x15, 0, 1, 272), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
"""


@dataclass
class Broker:
    """Accepts evidence whose binding holds, and sends the key, or closes; remembers the quotes."""

    ca: bytes
    address: tuple[str, int]
    listener: socket.socket
    context: SSL.Context
    refuse: bool = False
    answer: bytes | None = None
    quotes: list[Quote] = field(default_factory=list)

    def serve(self) -> None:
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            with stream:
                self.one(stream)

    def one(self, stream: socket.socket) -> None:
        stream.settimeout(None)
        session = SSL.Connection(self.context, stream)
        session.set_accept_state()
        try:
            session.do_handshake()
            server = ProvisioningServer()
            while not server.receive(session.recv(1000)):
                pass
        except SSL.Error:
            return
        certificate = session.get_peer_certificate()
        assert certificate is not None
        evidence = parse_certificate(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))
        quote = Quote.parse(evidence.quote)
        check_binding(evidence, quote.report.report_data)
        self.quotes.append(quote)
        if not self.refuse:
            session.sendall(self.answer or server.respond(KEY).reveal())
        session.shutdown()


@dataclass
class World:
    """A release, an enclave's specification, a platform, a broker, and the keys of their owner."""

    release: Release
    broker: Broker
    socket: Path
    signing_key: rsa.RSAPrivateKey
    index_key: Ed25519PrivateKey

    def build(
        self,
        *flags: str,
        name: str = "replica-0",
        broker: tuple[str, int] | None = None,
        gramine: GramineFiles | None = None,
    ) -> BuiltEnclave:
        spec = EnclaveSpec(
            name=name,
            release_id=self.release.id,
            argv=(sys.executable, "-I", "-c", SERVER, "/release", *flags),
            broker=broker or self.broker.address,
            mounts=release_mounts(self.release.folder),
            trusted_files=measure([sys.executable]),
            gramine=gramine,
            isv_prod_id=7,
            isv_svn=3,
            simulated=True,
        )
        return build_enclave(
            self.release.folder,
            spec,
            broker_ca=self.broker.ca,
            signing_key=self.signing_key,
            index_signer=self.index_key,
            signed_on=SIGNED_ON,
            dangerous=[Danger.OTHER_PROGRAM],
        )

    def command(self, name: str = "replica-0", *flags: str) -> list[str]:
        code = (NO_UNSHARE if "--no-unshare" in flags else "") + LAUNCHER
        return [sys.executable, "-c", code, str(self.release.folder), name, str(self.socket), *flags]

    def run(self, name: str = "replica-0") -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(name), capture_output=True, text=True, check=False, timeout=60)

    def start(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command("replica-0", *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="session")
def signing_key() -> rsa.RSAPrivateKey:
    return keys.signing_key()


@contextmanager
def running_broker() -> Iterator[Broker]:
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name.from_rfc4514_string("CN=test broker CA")
    period = (now - timedelta(days=1), now + timedelta(days=1))
    ca = (
        x509.CertificateBuilder(ca_name, ca_name, ca_key.public_key(), 1, *period)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    leaf = (
        x509.CertificateBuilder(ca_name, x509.Name.from_rfc4514_string("CN=broker"), key.public_key(), 2, *period)
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(leaf)
    context.use_privatekey(key)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        broker = Broker(
            ca=ca.public_bytes(serialization.Encoding.PEM),
            address=("127.0.0.1", listener.getsockname()[1]),
            listener=listener,
            context=context,
        )
        thread = threading.Thread(target=broker.serve)
        thread.start()
        try:
            yield broker
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def world(tmp_path: Path, signing_key: rsa.RSAPrivateKey) -> Iterator[World]:
    now = datetime.now(UTC)
    model = tmp_path / "model"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(MODEL)
    (model / "variables" / "variables.index").write_bytes(b"")
    index_key = Ed25519PrivateKey.generate()
    contents = ReleaseContents(
        name="tiny",
        servables=[Servable(name="tiny", version=1, folder=model)],
        files={"tls/ssl.cfg": SETTINGS},
        simulated=True,
        created=now,
    )
    release = build_release(contents, tmp_path, key=KEY, key_id="0" * 32, signer=index_key)
    vendor = Vendor.create(tmp_path / "vendor", now=now)
    platform = SimulatedPlatform.create(vendor, tmp_path / "platform", now=now)
    with (
        running_broker() as broker,
        tempfile.TemporaryDirectory(prefix="se-") as folder,
        QuotingServer(platform, Path(folder) / "quoting.sock"),
    ):
        yield World(
            release=release,
            broker=broker,
            socket=Path(folder) / "quoting.sock",
            signing_key=signing_key,
            index_key=index_key,
        )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def read_until_ready(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        if line == "ready\n":
            return lines
        lines.append(line.rstrip())
    _, log = process.communicate()
    pytest.fail(f"the server was not ready: {log}")


def assert_nothing_remains(log: str) -> None:
    folders = re.findall(r"step=private-memory method=\S+ folder=(\S+)", log)
    assert not [folder for folder in folders if Path(folder).exists()]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_enclave_is_attested_gets_its_key_and_serves_what_is_sealed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTS_OWN", "not measured")
    built = world.build("run", "--flag=/release/models/tiny")

    result = world.run()

    assert result.returncode == 3, result.stderr
    lines = result.stdout.splitlines()
    assert f"file models/tiny/1/saved_model.pb {digest(MODEL)}" in lines
    assert f"file models/tiny/1/variables/variables.index {digest(b'')}" in lines
    assert f"file tls/ssl.cfg {digest(SETTINGS)}" in lines
    assert sum(line.startswith("file ") for line in lines) == 4, "these and the file list"
    variables = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("variable "))
    assert variables["SEALSERVE_RELEASE_ID"] == world.release.id
    assert variables["SECRET_PROVISION_SERVERS"] == "{}:{}".format(*world.broker.address)
    assert not {"HOSTS_OWN", "PATH", "LD_PRELOAD", "SECRET_PROVISION_CONSTRUCTOR"} & variables.keys()
    (quote,) = world.broker.quotes
    assert quote.report.mr_enclave == built.mr_enclave
    assert quote.report.mr_signer == built.mr_signer
    assert (quote.report.isv_prod_id, quote.report.isv_svn) == (7, 3)
    assert (quote.report.attributes.flags, quote.report.attributes.xfrm) == (5, 0xE7)
    assert "simulation protects nothing from this machine's root" in result.stderr
    steps = re.findall(r"step=(\S+)", result.stderr)
    assert steps == ["measured", "trusted-files", "private-memory", "broker", "quote", "quote", "key", "mounts",
                     "server", "ended"]  # fmt: skip
    assert built.mr_enclave.hex() in result.stderr
    for form in (KEY.reveal().hex(), repr(KEY.reveal())[2:-1]):
        assert form not in result.stderr + result.stdout
    assert_nothing_remains(result.stderr)


def needs_namespace() -> None:
    code = "from sealserve.enclave.simulated.mount_namespace import why_not; print(why_not('/release') or '')"
    reason = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if reason:
        pytest.skip(f"no mount namespace here: {reason}; run as root or allow user namespaces")


def test_nobody_outside_sees_the_plaintext_and_sigterm_drains(world: World) -> None:
    needs_namespace()
    world.build("wait")
    with world.start() as process:
        lines = read_until_ready(process)

        assert "arguments /release wait" in lines
        assert "mode 0o700 cwd / stdin True" in lines
        assert not Path("/release").exists()
        server = int(next(line.split()[1] for line in lines if line.startswith("pid ")))
        mounts = Path(f"/proc/{server}/mountinfo").read_text()
        assert " /release rw" in mounts
        assert " /release rw" not in Path("/proc/self/mountinfo").read_text()

        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)

    assert process.returncode == 7, "the server's own exit status"
    assert "method=mount-namespace folder=/release" in log
    assert not alive(server)
    assert_nothing_remains(log)


@pytest.mark.parametrize("target", ["launcher", "group"])
def test_a_killed_launcher_takes_its_server_with_it(world: World, target: str) -> None:
    world.build("wait")
    with world.start() as process:
        lines = read_until_ready(process)
        server = int(next(line.split()[1] for line in lines if line.startswith("pid ")))
        if target == "launcher":
            process.kill()
        else:
            os.kill(server, signal.SIGKILL)
        _, log = process.communicate(timeout=30)

    wait_gone(server)
    assert process.returncode == (-9 if target == "launcher" else 128 + 9)
    assert_nothing_remains(log)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter has x86-64 system call numbers")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 7), (signal.SIGKILL, -9)])
def test_without_a_namespace_the_folder_is_said_and_wiped(world: World, number: int, status: int) -> None:
    world.build("wait", "--base=/release/models")
    with world.start("--no-unshare") as process:
        lines = read_until_ready(process)
        (folder,) = {line.split()[1] for line in lines if line.startswith("arguments ")}
        assert f"arguments {folder} wait --base={folder}/models" in lines
        assert f"variable HOME {folder}/scratch" in lines
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        process.send_signal(number)
        _, log = process.communicate(timeout=30)  # returns when the last process that holds the pipe has ended

    assert process.returncode == status
    assert f"method=shared-memory-folder folder={folder}" in log
    assert f"{folder} replaces it in arguments and environment" in log
    assert not Path(folder).exists()


def test_the_enclave_ends_with_its_parent(world: World) -> None:
    world.build("wait")
    parent = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
for line in child.stdout:
    if line == "ready\\n":
        break
print(child.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent, *world.command("replica-0", "--exit-with-parent")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        launcher = int(process.stdout.readline())
        assert alive(launcher)
        process.kill()
        process.communicate(timeout=30)

    wait_gone(launcher)


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL])
def test_a_server_that_crashes_is_attested_and_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    world.build("wait")
    launcher = LAUNCHER.replace(
        "sys.exit(run_enclave(", "from functools import partial; sys.exit(supervise(partial(run_enclave, "
    ).replace('"--exit-with-parent" in sys.argv))', "True), attempts=3, serves=lambda: True))")
    launcher = launcher.replace(
        "import logging, sys\n",
        "import logging, sys\nfrom sealserve.enclave.launch import pauses\n"
        "from sealserve.enclave.launch.supervisor import supervise\npauses.FIRST_PAUSE = 0.01\n",
    )
    monkeypatch.setattr(sys.modules[__name__], "LAUNCHER", launcher)
    with world.start() as process:
        for _ in range(2):
            lines = read_until_ready(process)
            server = int(next(line.split()[1] for line in lines if line.startswith("pid ")))
            os.kill(server, number)
        read_until_ready(process)
        process.terminate()
        _, log = process.communicate(timeout=30)

    assert process.returncode == 7, "the server's own status after SIGTERM"
    assert len(world.broker.quotes) == 3, "each start is attested"
    assert re.findall(r"step=again after=\S+ failed=(\d) signal=(\w+)", log) == [("1", number.name), ("2", number.name)]
    assert_nothing_remains(log)


def refused(result: subprocess.CompletedProcess[str], code: str, message: str, status: int = 3) -> None:
    assert f"error[{code}]" in result.stderr, result.stderr
    assert message in result.stderr
    assert result.returncode == status
    assert result.stdout == "", "no server ran"
    assert_nothing_remains(result.stderr)


def test_a_changed_argument_is_noticed(world: World) -> None:
    built = world.build("run", "--ssl=/release/tls/ssl.cfg")
    built.manifest.write_bytes(built.manifest.read_bytes().replace(b"--ssl=/release/tls/ssl.cfg", b"--plaintext"))

    refused(world.run(), "enclave.measurement", f"was signed for MRENCLAVE {built.mr_enclave.hex()}")
    assert world.broker.quotes == []


def test_a_debug_enclave_says_so_in_its_quote(world: World) -> None:
    world.build("run")
    resign(
        world.release.folder,
        "replica-0",
        signing_key=world.signing_key,
        signed_on=SIGNED_ON,
        dangerous_debug=True,
        dangerous=[Danger.OTHER_PROGRAM],
    )
    world.broker.refuse = True

    refused(world.run(), "provisioning.refused", "it closed the connection after it received the evidence")
    assert world.broker.quotes[0].report.attributes.debug


def test_a_changed_sealed_file_does_not_open(world: World) -> None:
    world.build("run")
    sealed = world.release.folder / "models/tiny/1/saved_model.pb"
    content = bytearray(sealed.read_bytes())
    content[9000] ^= 1
    sealed.write_bytes(content)

    refused(world.run(), "sealed-file.tampered-node", "saved_model.pb")


def test_a_sealed_file_in_anothers_place_does_not_open(world: World) -> None:
    world.build("run")
    folder = world.release.folder
    (folder / "models/tiny/1/saved_model.pb").write_bytes((folder / "tls/ssl.cfg").read_bytes())

    refused(world.run(), "sealed-file.path-mismatch", "got 'tls/ssl.cfg'")


def test_a_missing_mount_is_named(world: World) -> None:
    world.build("run")
    shutil.rmtree(world.release.folder / "tls")

    refused(world.run(), "enclave.mount-source", "does not contain 'tls', which the enclave mounts at /release/tls")


def test_a_changed_trusted_file_is_named(world: World) -> None:
    built = world.build("run")
    (built.manifest.parent / "broker-ca.pem").write_bytes(b"another")

    refused(
        world.run(),
        "enclave.trusted-file-changed",
        "broker-ca.pem was changed after the enclave was built",
    )


def test_an_unknown_enclave_is_said(world: World) -> None:
    world.build("run")

    refused(world.run("replica-9"), "enclave.missing", "Choose an enclave of this release: replica-0.", status=2)


def test_a_broker_that_is_down_is_one_clear_error(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = ("127.0.0.1", unused.getsockname()[1])
    world.build("run", broker=address)

    refused(world.run(), "provisioning.unreachable", f"127.0.0.1:{address[1]}: Connection refused", status=4)


def test_a_quoting_socket_without_a_platform_is_one_clear_error(world: World) -> None:
    world.build("run")
    world.socket = world.socket.with_name("nobody.sock")

    refused(world.run(), "quoting.unavailable", "Check that the simulated platform is running.", status=4)


def test_another_broker_is_not_trusted(world: World) -> None:
    with running_broker() as impostor:
        world.build("run", broker=impostor.address)

        refused(world.run(), "provisioning.broker-certificate", "does not verify")
        assert impostor.quotes == []


def test_a_broker_for_another_name_is_not_trusted(world: World) -> None:
    world.build("run", broker=("localhost", world.broker.address[1]))

    refused(
        world.run(), "provisioning.broker-certificate", "Hostname mismatch, certificate is not valid for 'localhost'"
    )


def test_a_key_of_another_length_is_not_used(world: World) -> None:
    world.build("run")
    world.broker.answer = b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0" + (17).to_bytes(4, "big") + bytes(17)

    refused(world.run(), "provisioning.length", "exactly 16 bytes, got 17")


def test_another_key_opens_nothing(world: World) -> None:
    world.build("run")
    world.broker.answer = b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0" + (16).to_bytes(4, "big") + b"k" * 16

    refused(world.run(), "sealed-file.wrong-key", "files.json")


def test_sigterm_before_the_key_comes_ends_it_cleanly(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        world.build("wait", broker=("127.0.0.1", silent.getsockname()[1]))
        with world.start() as process:
            silent.settimeout(30)
            peer, _ = silent.accept()
            with peer:
                assert peer.recv(1) != b"", "the client's hello: its quotes are made"
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGTERM
    assert "step=stopped status=143" in log
    assert_nothing_remains(log)


DIRECT_LAUNCHER = LAUNCHER.replace(
    "launcher import run_enclave", "gramine_direct import run_gramine_direct as run_enclave"
).replace(
    """
                         exit_with_parent="--exit-with-parent" in sys.argv""",
    "",
)
# What gramine-direct does with a manifest, as far as it matters here: it opens the sealed files with the key in it.
DIRECT = """
import os, signal, stat, sys, tomllib
from pathlib import Path
from sealserve.sealing.codec import unseal_bytes
from sealserve.secret import SecretBytes
path = Path(sys.argv[1] + ".manifest")
manifest = tomllib.loads(path.read_text())
key = SecretBytes(bytes.fromhex(manifest["fs"]["insecure__keys"]["release"]))
print("manifest", oct(path.stat().st_mode & 0o777), oct(path.parent.stat().st_mode & 0o777))
print("content", bytes(unseal_bytes(Path("models/tiny/1/saved_model.pb"), key=key,
                       embedded_path="models/tiny/1/saved_model.pb").reveal())[:11])
print("provisioning", [name for name in manifest["loader"]["env"] if name.startswith(("SECRET_", "LD_PRELOAD"))])
print("environment", sorted(os.environ.keys() - {"LC_CTYPE"}))  # Python itself sets that one
if "wait" in manifest["loader"]["argv"]:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    print("ready", path, flush=True)
    signal.sigwait([signal.SIGTERM])
    sys.exit(7)
sys.exit(3)
"""


class TestGramineDirect:
    """Simulation with Gramine's library OS; the loader is a stand-in."""

    @pytest.fixture
    def loader(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        program = tmp_path / "bin/gramine-direct"
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable}\n{DIRECT}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return program

    @staticmethod
    def build(world: World, *flags: str) -> None:
        folder = "/usr/lib/x86_64-linux-gnu/gramine"
        libos, libpal = (
            MeasuredFile(path=f"{folder}/{name}", size=1, sha256="a" * 64) for name in ("libsysdb.so", "sgx/libpal.so")
        )
        world.build(*flags, gramine=GramineFiles(folder=folder, libos=libos, libpal=libpal))

    @staticmethod
    def command(world: World) -> list[str]:
        return [sys.executable, "-c", DIRECT_LAUNCHER, str(world.release.folder), "replica-0", str(world.socket)]

    @pytest.mark.usefixtures("loader")
    def test_the_key_is_in_a_manifest_of_ours_only_and_in_memory(self, world: World) -> None:
        self.build(world, "once")
        before = set(Path("/dev/shm").iterdir())  # noqa: S108  # where it may leave nothing
        ended = subprocess.run(self.command(world), capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 3, ended.stderr
        assert ended.stdout.splitlines() == [
            "manifest 0o600 0o700", "content b\"the model's\"", "provisioning []", "environment ['PATH']"
        ]  # fmt: skip
        assert len(world.broker.quotes) == 1
        assert KEY.reveal().hex() not in ended.stderr
        left = {path.name for path in set(Path("/dev/shm").iterdir()) - before}  # noqa: S108
        assert not any(name.startswith("sealserve-") for name in left)

    @pytest.mark.usefixtures("loader")
    def test_a_killed_launcher_leaves_the_key_nowhere(self, world: World) -> None:
        self.build(world, "wait")
        with subprocess.Popen(
            self.command(world), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            manifest = Path(next(line for line in process.stdout if line.startswith("ready")).split()[1])
            assert manifest.is_symlink(), "while it serves, there is a link and no file"
            assert {path.name for path in manifest.parent.iterdir()} == {manifest.name}
            process.kill()
            process.communicate(timeout=30)  # returns when the server has ended too
        assert [path.is_symlink() for path in manifest.parent.iterdir()] == [True], "there is the link, and no file"
        assert str(manifest.readlink()).startswith("/proc/self/fd/")
        manifest.unlink()
        manifest.parent.rmdir()

    @pytest.mark.usefixtures("loader")
    def test_sigterm_reaches_it_and_the_manifest_goes(self, world: World) -> None:
        self.build(world, "wait")
        with subprocess.Popen(
            self.command(world), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            manifest = next(line for line in process.stdout if line.startswith("ready")).split()[1]
            assert Path(manifest).exists()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        assert process.returncode == 7
        assert not Path(manifest).parent.exists()

    def test_without_gramine_in_the_inventory_or_on_the_machine(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.build("once")
        ended = subprocess.run(self.command(world), capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 2
        assert "error[enclave.without-gramine]" in ended.stderr
        self.build(world, "once")
        monkeypatch.setenv("PATH", "/none")
        ended = subprocess.run(self.command(world), capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 4
        assert "error[gramine.loader-missing]" in ended.stderr
        assert world.broker.quotes == []
