"""Seven attacks of a hostile host on the release and the platform, before an enclave serves.

The host really carries out each attack. It changes files, manifests and signatures on its disk, runs other platforms,
and answers in place of the vendor's service. It has neither the owner's keys nor the vendor's keys.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa

from sealserve.attestation.codes import AttestationCode
from sealserve.cli.demo.attempts import Attempt, Refusal, not_refused
from sealserve.cli.demo.stage import NAME, AuditLog, Stage
from sealserve.cluster.local.owner_services import stop_roles
from sealserve.cluster.target import BROKER, PCS
from sealserve.enclave.launch.simulator import load_simulator
from sealserve.enclave.measurement import manifest_path
from sealserve.enclave.signing import resign
from sealserve.owner import simulation
from sealserve.pcs_address import pcs_url
from sealserve.sealing.protected_file import NODE_SIZE
from sealserve.workspace import Workspace

SECONDS = 300
_CODE = re.compile(r"error\[([a-z.-]+)\]: (.*)")


class LaunchAttacks:
    """A hostile host that changes a genuine release, or the platform, and starts the enclave.

    Args:
        stage: The genuine release, broker and platform.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._workspace = stage.workspace
        self._release = stage.release
        files = stage.built.index.files
        largest = max((file for file in files if file.path.startswith("models/")), key=lambda file: file.size)
        self._model_file, self._size = largest.path, largest.size
        self._other_file = next(file.path for file in files if file.path != largest.path)

    def attempts(self) -> list[Attempt]:
        """Return the attacks, in order."""
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
            shutil.copyfile(release / self._other_file, release / self._model_file)
            return self._launch(release)

    def _delete(self) -> Refusal:
        with self._copy() as release:
            (release / self._model_file).unlink()
            return self._launch(release)

    def _change_argument(self) -> Refusal:
        with self._copy() as release:
            change_argument(release)
            refusal = self._launch(release)
            if refusal.code != "enclave.measurement":
                raise not_refused(
                    "A changed manifest with the old signature was refused for the wrong reason: expected "
                    f"enclave.measurement, got {refusal.code}."
                )
            resign(release, NAME, signing_key=own_key(), signed_on=datetime.now(UTC).date())
            return self._launch(release)

    def _debug(self) -> Refusal:
        with self._copy() as release:
            resign(release, NAME, signing_key=own_key(), signed_on=datetime.now(UTC).date(), dangerous_debug=True)
            return self._launch(release)

    def _out_of_date(self) -> Refusal:
        with self._stage.old_platform() as (_, socket):
            return self._attest(socket)

    def _forge_tcb_info(self) -> Refusal:
        walk = self._stage.walk
        port = urlsplit(pcs_url(walk.deployment)).port or 0
        with self._stage.old_platform() as (platform, socket):
            # A running broker uses the TCB info in its memory, and a new broker uses the stored TCB info. Genuine TCB
            # info is valid for a month, so this attack needs a broker without it.
            _ = self._stage.service  # the genuine enclave has attested
            stop_roles(self._workspace, BROKER, PCS)
            shutil.rmtree(self._workspace.owner.collateral, ignore_errors=True)
            try:
                with load_simulator().pcs_server(self._stage.vendor, port=port, stolen=platform):
                    walk.target.services.start(BROKER)
                    return self._attest(socket)
            finally:
                stop_roles(self._workspace, BROKER)
                shutil.rmtree(self._workspace.owner.collateral, ignore_errors=True)
                walk.target.services.start(PCS, BROKER)

    def _copy(self) -> AbstractContextManager[Path]:
        """Return a context with a copy of the release on the host, which an attack may change."""
        return changed_copy(self._workspace, self._release)

    def _attest(self, socket: Path) -> Refusal:
        """Start the genuine enclave on another platform, until the broker answers, and return the broker's refusal.

        The program in an enclave would try again for minutes if the broker cannot decide.
        """
        stage = self._stage
        quote_for = partial(stage.quote, self._release, socket=socket)
        keys = stage.new_keys(self._release)
        return stage.refused_by_broker(partial(stage.attest, self._release, keys, quote_for=quote_for))

    def _launch(self, release: Path) -> Refusal:
        """Start an enclave, wait until it ends, and return the refusal.

        Args:
            release: Folder of the release on the host.

        Raises:
            VerificationError: `demo.not-refused`: The enclave served, or ended without an error code.
        """
        command = [sys.executable, "-P", "-m", "sealserve", "enclave", "run", "--name", NAME, "--release", str(release)]
        command += ["--directory", str(self._workspace.directory)]
        command += ["--quoting-socket", str(simulation.quoting_socket(self._workspace))]
        log = AuditLog(self._workspace)
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise not_refused(f"The attack was not refused: the enclave still runs after {SECONDS} seconds.") from error
        found = _CODE.findall(ended.stderr)
        if ended.returncode == 0 or not found:
            raise not_refused(
                f"The attack was not refused with an error code: the enclave ended with status {ended.returncode}."
            )
        code, message = found[-1]
        if code != AttestationCode.ATTEST_REFUSED:
            return Refusal(code=code, message=message.replace(f"{release}/", ""), by="the enclave")
        return log.refusal()


@contextmanager
def changed_copy(workspace: Workspace, release: Path) -> Iterator[Path]:
    """Yield a copy of a release on the host, which an attack may change."""
    copy = workspace.host.releases / "tampered"
    shutil.copytree(release, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


def change_argument(release: Path) -> None:
    """Change an argument of the server in the manifest of a release."""
    path = manifest_path(release, NAME)
    path.write_bytes(path.read_bytes().replace(b"--rest_api_port=0", b"--rest_api_port=8501"))


def own_key() -> rsa.RSAPrivateKey:
    """Return a new signing key of the host. SGX accepts an enclave from any signer."""
    return rsa.generate_private_key(public_exponent=3, key_size=3072)
