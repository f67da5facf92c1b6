"""Seven attacks of a hostile host, and the check that refuses each of them.

The host really carries out each attack. It changes files, manifests and signatures on its disk, runs other platforms,
and answers in place of the vendor's service. It has neither the owner's keys nor the vendor's keys.
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
    """Reason why an enclave did not serve: code and message of the error, and the part that refused."""

    code: str
    message: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attack of a hostile host.

    Args:
        title: The attack, as the rest of the sentence "The host tries to ...".
        explanation: Why the attack matters, and why it fails.
        expected: Code of the error that must refuse the attack.
        act: Carries out the attack, and returns the refusal.
    """

    title: str
    explanation: str = ""
    expected: str
    act: Callable[[], Refusal]


class Host:
    """A hostile host with a genuine release, a genuine broker and a genuine platform.

    Args:
        workspace: The demo's workspace.
        walk: The demo, after it created the model and the certificates.
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
        # The vendor publishes a security update. The genuine platform has it; any other platform is now out of date.
        self._vendor = simulation.open_vendor(workspace, now=datetime.now(UTC))

    def attempts(self) -> list[Attempt]:
        """Return the seven attacks, in order."""
        return [
            Attempt(
                title="flip one bit of a sealed file",
                explanation="A changed model could give wrong answers. Sealed files are authenticated block by block, "
                "so the enclave notices a single changed bit and does not start the server.",
                # A file of one node has its content in the node that is authenticated with the key alone.
                expected="sealed-file.tampered-node" if self._size > NODE_SIZE else "sealed-file.wrong-key",
                act=self._flip,
            ),
            Attempt(
                title="replace a sealed file with another sealed file",
                explanation="Both files are genuine and encrypted under the same key. Each sealed file also contains "
                "the path that it belongs to, so the enclave rejects a file in the wrong place.",
                expected="sealed-file.path-mismatch",
                act=self._swap,
            ),
            Attempt(
                title="delete a file of the model",
                explanation="The enclave must not serve an incomplete model. The sealed list of files names each file "
                "of the release, so the enclave notices that a file is missing.",
                expected="servable.file-missing",
                act=self._delete,
            ),
            Attempt(
                title="change a server argument in the manifest, and sign the manifest again",
                explanation="With the old signature, the changed enclave does not start. SGX accepts any signer, so "
                "the host signs with its own key. The enclave then starts with another MRENCLAVE, which the owner did "
                "not register, and the broker does not release the key.",
                expected="policy.mr-enclave-unknown",
                act=self._change_argument,
            ),
            Attempt(
                title="sign the enclave again with debug mode",
                explanation="The host can read the memory of an enclave in debug mode. The quote shows this mode, so "
                "the broker rejects the quote.",
                expected="quote.debug",
                act=self._debug,
            ),
            Attempt(
                title="run the enclave on a platform whose TCB is out of date",
                explanation="This platform does not have the vendor's last security update, so a known vulnerability "
                "could expose the model. The broker compares the platform with the vendor's TCB info and rejects it.",
                expected="policy.tcb-status",
                act=self._out_of_date,
            ),
            Attempt(
                title="change the TCB info to UpToDate, and sign it with a stolen PCK key",
                explanation="The host answers in place of the vendor's service and reports that the old platform is up "
                "to date. It signs with a PCK key, which belongs to a processor. The broker accepts TCB info only with "
                "the signature of the vendor's TCB signing certificate.",
                expected="collateral.signer-not-tcb-signing",
                act=self._forge_tcb_info,
            ),
        ]

    def _flip(self) -> Refusal:
        with self._copy() as release:
            with (release / self._model_file).open("r+b") as stream:
                place = self._size - NODE_SIZE + 1000  # in the last node, which contains the model's data
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
                    "A changed manifest with the old signature was refused for the wrong reason: expected "
                    f"enclave.measurement, got {refusal.code}."
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
            # A running broker uses the TCB info in its memory, and a new broker uses the stored TCB info. Genuine TCB
            # info is valid for a month, so this attack needs a broker without it.
            stop_roles(self._workspace, BROKER, PCS)
            shutil.rmtree(self._workspace.owner.collateral, ignore_errors=True)
            with load_simulator().pcs_server(self._vendor, port=port, stolen=platform):
                walk.target.services.start(BROKER)
                try:
                    return self._launch(self._release, socket)
                finally:
                    stop_roles(self._workspace, "broker")

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        """Yield a copy of the release on the host, which an attack may change."""
        copy = self._workspace.host.releases / "tampered"
        shutil.copytree(self._release, copy)
        try:
            yield copy
        finally:
            shutil.rmtree(copy)

    @contextmanager
    def _old_platform(self) -> "Iterator[tuple[SimulatedPlatform, Path]]":
        """Yield a platform without the vendor's last security update, and the socket of its quoting service."""
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
        """Start an enclave, wait until it ends, and return the refusal.

        Args:
            release: Folder of the release on the host.
            socket: Socket of a platform's quoting service. None means the genuine platform.

        Raises:
            VerificationError: `demo.not-refused`: The enclave served, or ended without an error code.
        """
        command = [sys.executable, "-P", "-m", "sealserve", "enclave", "run", "--name", NAME, "--release", str(release)]
        command += ["--directory", str(self._workspace.directory)]
        command += ["--quoting-socket", str(socket or simulation.quoting_socket(self._workspace))]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise CliCode.DEMO_NOT_REFUSED.error(
                f"The attack was not refused: the enclave still runs after {SECONDS} seconds."
            ) from error
        found = _CODE.findall(ended.stderr)
        if ended.returncode == 0 or not found:
            raise CliCode.DEMO_NOT_REFUSED.error(
                f"The attack was not refused with an error code: the enclave ended with status {ended.returncode}."
            )
        code, message = found[-1]
        if code != _REFUSED_BY_BROKER:
            return Refusal(code=code, message=message.replace(f"{release}/", ""), by="the enclave")
        with Owner.open(self._workspace).vault() as vault:
            row = admin.log(vault.database, last=1)[0].entry
        if row.decision != "refused":
            raise CliCode.DEMO_NOT_REFUSED.error(
                f"The broker's last decision is wrong: expected 'refused', got {str(row.decision)!r}."
            )
        return Refusal(code=row.code, message=row.detail, by="the broker")


def run(workspace: Workspace, walk: Walk, screen: Screen, *, tell: Tell) -> None:
    """Carry out the seven attacks.

    Raises:
        VerificationError: `demo.not-refused`: An attack was not refused, or was refused for the wrong reason.
    """
    tell("Setting up a genuine release, broker and platform")
    host = Host(workspace, walk)
    screen.step(
        0,
        "A genuine release, broker and platform are ready",
        "The host can change every file on its disk, run other platforms, and answer in place of the vendor's service. "
        "It has neither the owner's keys nor the vendor's keys.",
    )
    attempts = host.attempts()
    for number, attempt in enumerate(attempts, start=1):
        tell(f"The host tries to {attempt.title}")
        refusal = attempt.act()
        if refusal.code != attempt.expected:
            raise CliCode.DEMO_NOT_REFUSED.error(
                f"The attack to {attempt.title} was refused for the wrong reason: expected {attempt.expected}, got "
                f"{refusal.code}."
            )
        screen.step(
            number,
            f"The host tries to {attempt.title}: refused",
            attempt.explanation,
            ("refused by", refusal.by),
            ("error", f"{refusal.code}: {refusal.message}"),
            mark=str(number),
        )
    screen.heading("", f"All {len(attempts)} attacks were refused.")


def _own_key() -> rsa.RSAPrivateKey:
    """Return a new signing key of the host. SGX accepts an enclave from any signer."""
    return rsa.generate_private_key(public_exponent=3, key_size=3072)
