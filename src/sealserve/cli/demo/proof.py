"""The proof that the host saw only ciphertext, and that only the enclaves have the service's TLS keys.

The demo searches the host's files and all logs for the secrets, and the files of host and owner for TLS keys.
"""

import base64
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sealserve.broker.keystore import KeyId
from sealserve.cli.codes import CliCode
from sealserve.cli.demo import found_keys, public_texts
from sealserve.cli.demo.exposure import WINDOW, Exposure, Finding, files_under
from sealserve.cli.demo.screen import Screen
from sealserve.deployment import Deployment
from sealserve.owner import models
from sealserve.owner.owner import Owner
from sealserve.sealing.release_index import INDEX_FILE, parse_index
from sealserve.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Result of a search that found no secret.

    Args:
        files: Number of files that were searched.
        size: Their size in bytes.
        secrets: Number of secrets that were searched for.
        secret_size: Their size in bytes.
        view: The host's files, as lines with size and path.
        keys: Number of private keys that were found. None of them is a TLS key of the service.
        key_files: Number of files of host and owner that were searched for private keys.
        opened: Number of sealed files that were opened with the release key, and searched for private keys.
    """

    files: int
    size: int
    secrets: int
    secret_size: int
    view: tuple[str, ...]
    keys: int
    key_files: int
    opened: int


def search(
    workspace: Workspace,
    deployment: Deployment,
    release: Path,
    *,
    served: Sequence[bytes] = (),
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Proof:
    """Search the host's folder and all logs for the model and the release key, and all files for TLS keys.

    Args:
        workspace: The demo's workspace.
        deployment: The demo's deployment.
        release: The folder of the release.
        served: The certificates of the service's connections, DER. No private key on this machine may fit one of them.
        progress: Called with the number of bytes that were searched, and the total number of bytes.

    Raises:
        VerificationError: `demo.exposed`: A 16-byte window of a secret was found, or a TLS key of the service.
    """
    secrets = _secrets(workspace, deployment, release)
    roots = [workspace.host.root, workspace.owner.logs]
    public, places = public_texts.of(workspace, deployment, release)
    searched = list(files_under(roots))
    size = sum(path.stat().st_size for path in searched)
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(done, size)

    findings: list[Finding] = Exposure(secrets, public=public, places=places).search(roots, progress=advance)
    if findings:
        listed = "; ".join(f"{finding.secret} in {finding.path} at byte {finding.offset}" for finding in findings)
        raise CliCode.DEMO_EXPOSED.error(f"The host's files or a log contain secret data: {listed}.")
    searched_keys = found_keys.search(workspace, [release])
    if fitting := searched_keys.fitting(served):
        listed = ", ".join(key.place for key in fitting)
        raise CliCode.DEMO_EXPOSED.error(f"A private key of the service is outside of the enclaves: {listed}.")
    return Proof(
        keys=len(searched_keys.keys),
        key_files=searched_keys.files,
        opened=searched_keys.opened,
        files=len(searched),
        size=size,
        secrets=len(secrets),
        secret_size=sum(len(content) for _, content in secrets),
        view=tuple(_view(workspace.host.root)),
    )


def show(screen: Screen, found: Proof) -> None:
    """Show the result of the search."""
    screen.step(
        0,
        "The proof: the host saw ciphertext only",
        "The demo searches every file of the host, and every log, for the plaintext of the model and for the "
        "release key. The demo fails if it finds 16 consecutive bytes of one of them. It also compares every "
        "private key in the files of the host and of the owner with the TLS keys of the service.",
        (
            "searched",
            f"{found.files} files ({found.size / 1e6:.0f} MB): everything under .sealserve/host/ and all logs",
        ),
        ("not found", "16 bytes of the model's files, the release key"),
        (
            "TLS keys",
            (
                f"none of the {found.keys} private keys in {found.key_files} files of the host and the owner, and "
                f"in {found.opened} sealed files, belongs to a connection of the service"
            ),
        ),
        ("host's files", "size in bytes, and path"),
        *(f"  {line}" for line in found.view),
    )


def _secrets(workspace: Workspace, deployment: Deployment, release: Path) -> list[tuple[str, bytes]]:
    index = parse_index((release / INDEX_FILE).read_bytes())
    with Owner.open(workspace).vault() as vault, vault.database.read() as connection:
        key = vault.keystore.load(connection, KeyId(index.key_id))
    raw = key.reveal()
    folder = models.servable_folder(workspace, deployment.model)
    secrets = [(f"the model's {path.relative_to(folder)}", path.read_bytes()) for path in files_under([folder])]
    secrets += _spellings("the release key", raw)
    return [(name, content) for name, content in secrets if len(content) >= WINDOW]


def _spellings(name: str, secret: bytes) -> list[tuple[str, bytes]]:
    """Return the encodings of a secret that a file could contain: raw, hexadecimal, and base64 at its three alignments.

    PEM is base64 in lines of 64 characters. A line break always leaves 16 consecutive characters on one side of it.
    """
    spelled = [(name, secret), (f"{name} in hexadecimal", secret.hex().encode()),
               (f"{name} in upper-case hexadecimal", secret.hex().upper().encode())]  # fmt: skip
    for shift in range(3):
        usable = secret[shift : shift + (len(secret) - shift) // 3 * 3]
        spelled.append((f"{name} in base64", base64.b64encode(usable)))
    return spelled


def _view(root: Path) -> list[str]:
    lines = []
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            lines.append(f"{path.lstat().st_size:>11}  {path.relative_to(root)}")
        elif stat.S_ISSOCK(mode):
            lines.append(f"{'socket':>11}  {path.relative_to(root)}")
    return lines
