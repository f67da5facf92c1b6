"""Seven things that a hostile host may try, each with what refuses it.

The host's means are real: it changes files, manifests and signatures that lie on it, it runs other platforms, and it
answers for the vendor's service. It does not have the owner's keys, nor the vendor's.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa

from sealserve.broker import admin
from sealserve.cli.codes import CliCode
from sealserve.cli.console import Tell
from sealserve.cli.demo.screen import Screen
from sealserve.cli.demo.walk import Walk
from sealserve.cluster.local.owner_services import stop_roles
from sealserve.cluster.target import BROKER, PCS
from sealserve.enclave.launch.simulator import load_simulator
from sealserve.enclave.measurement import manifest_path
from sealserve.enclave.signing import resign
from sealserve.owner import simulation
from sealserve.owner.owner import Owner
from sealserve.pcs_address import pcs_url
from sealserve.sealing.protected_file import NODE_SIZE
from sealserve.workspace import Workspace

if TYPE_CHECKING:
    from sealserve.enclave.launch.simulator import SimulatedPlatform

NAME = "replica-0"
SECONDS = 300
_CODE = re.compile(r"error\[([a-z.-]+)\]: (.*)")
_REFUSED_BY_BROKER = "provisioning.refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an enclave did not serve: the error's code, its message, and who refused."""

    code: str
    message: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Something that a hostile host tries.

    Args:
        title: What it does.
        expected: The code of the error that must refuse it.
        act: Does it, and returns the refusal.
    """

    title: str
    expected: str
    act: Callable[[], Refusal]


class Host:
    """A hostile host, with a genuine release and a genuine broker to work on.

    Args:
        workspace: The demo's.
        walk: The demo, with model and certificates made.
    """

    def __init__(self, workspace: Workspace, walk: Walk) -> None:
        self._workspace = workspace
        self._walk = walk
        walk.start_vendor()
        built = walk.seal()
        self._release = walk.prepare_release(built.folder, 1).folder
        files = [file for file in built.index.files if file.path.startswith("models/")]
        largest = max(files, key=lambda file: file.size)
        self._model_file, self._size = largest.path, largest.size
        # The vendor finds a hole: what is not patched is out of date from now on. The genuine platform is patched.
        self._vendor = simulation.open_vendor(workspace, now=datetime.now(UTC))

    def attempts(self) -> list[Attempt]:
        """Return the seven, in order."""
        return [
            Attempt(
                title="flip one bit of a sealed file",
                # A file of one node has its content in the node that is authenticated with the key alone.
                expected="sealed-file.tampered-node" if self._size > NODE_SIZE else "sealed-file.wrong-key",
                act=self._flip,
            ),
            Attempt(
                title="put one sealed file in another's place", expected="sealed-file.path-mismatch", act=self._swap
            ),
            Attempt(title="delete a file of the model", expected="servable.file-missing", act=self._delete),
            Attempt(
                title="change a server argument in the manifest, and sign it anew",
                expected="policy.mr-enclave-unknown",
                act=self._change_argument,
            ),
            Attempt(title="sign the same enclave anew with DEBUG", expected="quote.debug", act=self._debug),
            Attempt(
                title="run it on a platform whose TCB is out of date",
                expected="policy.tcb-status",
                act=self._out_of_date,
            ),
            Attempt(
                title="rewrite TCB info to UpToDate, signed with a stolen PCK key",
                expected="collateral.signer-not-tcb-signing",
                act=self._forge_tcb_info,
            ),
        ]

    def _flip(self) -> Refusal:
        with self._copy() as release:
            with (release / self._model_file).open("r+b") as stream:
                place = self._size - NODE_SIZE + 1000  # in the last node, which holds content
                stream.seek(place)
                byte = stream.read(1)[0]
                stream.seek(place)
                stream.write(bytes([byte ^ 1]))
            return self._launch(release)

    def _swap(self) -> Refusal:
        with self._copy() as release:
            shutil.copyfile(release / "tls" / "ssl.cfg", release / self._model_file)
            return self._launch(release)

    def _delete(self) -> Refusal:
        with self._copy() as release:
            (release / self._model_file).unlink()
            return self._launch(release)

    def _change_argument(self) -> Refusal:
        with self._copy() as release:
            path = manifest_path(release, NAME)
            changed = path.read_bytes().replace(b"--rest_api_port=0", b"--rest_api_port=8501")
            path.write_bytes(changed)
            refusal = self._launch(release)
            if refusal.code != "enclave.measurement":
                raise CliCode.DEMO_NOT_REFUSED.error(
                    f"A changed manifest with the old signature was met with {refusal.code}."
                )
            resign(release, NAME, signing_key=_own_key(), signed_on=datetime.now(UTC).date())
            return self._launch(release)

    def _debug(self) -> Refusal:
        with self._copy() as release:
            resign(release, NAME, signing_key=_own_key(), signed_on=datetime.now(UTC).date(), dangerous_debug=True)
            return self._launch(release)

    def _out_of_date(self) -> Refusal:
        with self._old_platform() as (_, socket):
            return self._launch(self._release, socket)

    def _forge_tcb_info(self) -> Refusal:
        walk = self._walk
        port = urlsplit(pcs_url(walk.deployment)).port or 0
        with self._old_platform() as (platform, socket):
            stop_roles(self._workspace, BROKER, PCS)  # the broker keeps what it fetched
            with load_simulator().pcs_server(self._vendor, port=port, stolen=platform):
                walk.target.services.start(BROKER)
                try:
                    return self._launch(self._release, socket)
                finally:
                    stop_roles(self._workspace, "broker")

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        """Yield a copy of the release on the host, to be changed."""
        copy = self._workspace.host.releases / "tampered"
        shutil.copytree(self._release, copy)
        try:
            yield copy
        finally:
            shutil.rmtree(copy)

    @contextmanager
    def _old_platform(self) -> "Iterator[tuple[SimulatedPlatform, Path]]":
        """Yield a platform without the vendor's last patches, and the socket where it makes quotes."""
        simulator = load_simulator()
        folder = self._workspace.host.root / "old-platform"
        if folder.exists():
            platform = simulator.platform.load(folder)
        else:
            platform = simulator.platform.create(self._vendor, folder, now=datetime.now(UTC), out_of_date=True)
        socket = self._workspace.host.run / "old-quoting.sock"
        with simulator.quoting_server(platform, socket):
            yield platform, socket

    def _launch(self, release: Path, socket: Path | None = None) -> Refusal:
        """Start an enclave and wait for its end; return what refused it.

        Raises:
            VerificationError: `demo.not-refused`: It went on to serve, or ended without a reason.
        """
        command = [sys.executable, "-P", "-m", "sealserve", "enclave", "run", "--name", NAME, "--release", str(release)]
        command += ["--directory", str(self._workspace.directory)]
        command += ["--quoting-socket", str(socket or simulation.quoting_socket(self._workspace))]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise CliCode.DEMO_NOT_REFUSED.error("The enclave started and went on.") from error
        found = _CODE.findall(ended.stderr)
        if ended.returncode == 0 or not found:
            raise CliCode.DEMO_NOT_REFUSED.error(f"The enclave ended with status {ended.returncode} and no reason.")
        code, message = found[-1]
        if code != _REFUSED_BY_BROKER:
            return Refusal(code=code, message=message, by="the enclave")
        with Owner.open(self._workspace).vault() as vault:
            row = admin.log(vault.database, last=1)[0].entry
        if row.decision != "refused":
            raise CliCode.DEMO_NOT_REFUSED.error(f"The broker's last decision is {str(row.decision)!r}.")
        return Refusal(code=row.code, message=row.detail, by="the broker")


def run(workspace: Workspace, walk: Walk, screen: Screen, *, tell: Tell) -> None:
    """Try all seven.

    Raises:
        VerificationError: `demo.not-refused`: One was not refused for the right reason.
    """
    tell("setting up a genuine release, broker and platform")
    host = Host(workspace, walk)
    screen.step(0, "A genuine release, broker and platform, for a hostile host to work on")
    screen.heading("")
    for number, attempt in enumerate(host.attempts(), start=1):
        tell(f"the host tries to {attempt.title}")
        refusal = attempt.act()
        if refusal.code != attempt.expected:
            raise CliCode.DEMO_NOT_REFUSED.error(
                f"To {attempt.title} was met with {refusal.code}, not {attempt.expected}."
            )
        screen.step(number, f"The host tries to {attempt.title}: refused, {refusal.code}",
                    f"{refusal.by}: {refusal.message}", mark=str(number))  # fmt: skip


def _own_key() -> rsa.RSAPrivateKey:
    """Return a signing key of the host's own: SGX lets anybody sign."""
    return rsa.generate_private_key(public_exponent=3, key_size=3072)
