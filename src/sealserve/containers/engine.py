"""Client of the Docker engine: the ``docker`` command, so that the user's contexts, credentials and proxies apply.

Source: docs.docker.com/reference/cli/docker; the output of ``inspect`` is the Engine API's (v1.41 and later).
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sealserve.containers.codes import ContainersCode
from sealserve.errors import SealserveError, UnavailableError

INSTALL = "On Debian or Ubuntu, run `apt-get install docker.io`."
_UNREACHABLE = (
    "Cannot connect to the Docker daemon",
    "permission denied while trying to connect",
    "error during connect",
)
_DAEMON = "Error response from daemon: "
_ABSENT = ("No such", "not found", "does not exist")


class EngineRefusedError(UnavailableError):
    """The Docker engine rejected a command. The message contains the engine's reason."""

    code = "docker.refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that the engine has.

    Args:
        reference: The requested name.
        id: The digest of its configuration, ``sha256:...``, which is the engine's ID of the image.
        digests: Its names in registries by content, ``NAME@sha256:...``. Empty before it was pushed or pulled.
        size: Unpacked size in bytes.
        created: The time in its configuration (RFC 3339). "" if it has none, as in reproducible builds.
        layers: The digests of its unpacked layers, lowest first.
    """

    reference: str
    id: str
    digests: tuple[str, ...]
    size: int
    created: str
    layers: tuple[str, ...]


class Engine:
    """The engine that ``docker`` connects to (``DOCKER_HOST``, or the current context).

    Raises:
        UnavailableError: `docker.missing` if the program ``docker`` is not on the path.
    """

    def __init__(self) -> None:
        program = shutil.which("docker")
        if program is None:
            raise ContainersCode.DOCKER_MISSING.error("The program `docker` is not installed.", hint=INSTALL)
        self._program = program

    def require(self) -> str:
        """Return the engine's version.

        Raises:
            UnavailableError: `docker.unreachable` if the engine does not answer.
        """
        return self.run("version", "--format", "{{.Server.Version}}").strip()

    def run(self, *arguments: str) -> str:
        """Run a ``docker`` command and return its output.

        Raises:
            UnavailableError: `docker.unreachable` if the engine does not answer.
            EngineRefusedError: The engine rejected the command.
        """
        result = subprocess.run(
            [self._program, *arguments], capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL, env=_environment(),
        )  # fmt: skip
        if result.returncode != 0:
            raise _refusal(arguments, result.stderr)
        return result.stdout

    def run_merged(self, *arguments: str) -> str:
        """Run a command, and return its standard output and standard error, interleaved."""
        result = subprocess.run(
            [self._program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            check=False, stdin=subprocess.DEVNULL, env=_environment(),
        )  # fmt: skip
        if result.returncode != 0:
            raise _refusal(arguments, result.stdout)
        return result.stdout

    def watch(self, *arguments: str, on_line: Callable[[str], None]) -> None:
        """Run a long command, and pass on each line of its output.

        Raises:
            EngineRefusedError: It failed. The message contains the last lines.
        """
        with subprocess.Popen(
            [self._program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env=_environment(),
        ) as process:  # fmt: skip
            lines: list[str] = []
            try:
                for line in process.stdout or ():
                    lines = [*lines[-20:], line.rstrip()]
                    on_line(line.rstrip())
            except BaseException:
                process.terminate()
                raise
        if process.returncode != 0:
            raise _refusal(arguments, "\n".join(line for line in lines if line.strip()))

    @contextmanager
    def streaming(self, *arguments: str) -> Iterator[IO[bytes]]:
        """Run a command, and yield its output as a stream of bytes. Unread output is discarded.

        Raises:
            EngineRefusedError: It failed.
        """
        with subprocess.Popen(
            [self._program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=_environment(),
        ) as process:  # fmt: skip
            assert process.stdout is not None  # noqa: S101  # it is a pipe
            assert process.stderr is not None  # noqa: S101  # it is a pipe
            try:
                yield process.stdout
            except BaseException:
                process.terminate()
                raise
            process.stdout.close()
            error = process.stderr.read().decode(errors="replace")
        if process.returncode != 0:
            raise _refusal(arguments, error)

    def inspect(self, kind: str, *names: str) -> list[dict[str, Any]]:
        """Return the engine's data about the existing images, containers, networks or volumes among ``names``."""
        found: list[dict[str, Any]] = []
        for name in names:
            with suppress(EngineAbsentError):
                found += json.loads(self.run(kind, "inspect", name))
        return found

    def image(self, reference: str) -> Image | None:
        """Return an image, or None if the engine does not have it."""
        found = self.inspect("image", reference)
        if not found:
            return None
        return Image(
            reference=reference,
            id=found[0]["Id"],
            digests=tuple(found[0].get("RepoDigests") or ()),
            size=found[0]["Size"],
            created=found[0].get("Created") or "",
            layers=tuple(found[0]["RootFS"].get("Layers") or ()),
        )

    def labelled(self, kind: str, label: str) -> list[str]:
        """Return the IDs of the containers, networks or volumes that have a label. Includes stopped containers."""
        options = ["container", "ls", "--all"] if kind == "container" else [kind, "ls"]
        return self.run(*options, "--quiet", "--no-trunc", "--filter", f"label={label}").split()

    @contextmanager
    def unpacked(self, reference: str, folder: Path) -> Iterator[Path]:
        """Yield ``folder`` with an image's files in it, as a container would see them. No code of the image runs.

        Args:
            reference: The image.
            folder: An empty folder with sufficient space.

        Raises:
            EngineRefusedError: The image does not exist, or its files cannot be unpacked.
        """
        container = self.run("container", "create", "--network", "none", reference, "-").strip()
        try:
            with self.streaming("container", "export", container) as stream:
                tar = ["tar", "--extract", "--no-same-owner", "--no-same-permissions", "--directory", str(folder)]
                result = subprocess.run(tar, stdin=stream, stderr=subprocess.PIPE, check=False)
                if result.returncode != 0:
                    raise EngineRefusedError(
                        f"The files of {reference} cannot be unpacked: {_last(result.stderr.decode(errors='replace'))}",
                        hint=f"Check that {folder} has enough free space.",
                    )
            yield folder
        finally:
            self.run("container", "rm", "--force", "--volumes", container)


class EngineAbsentError(EngineRefusedError):
    """The engine has no image, container or network with this name."""

    code = "docker.absent"


def _environment() -> Mapping[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _refusal(arguments: Sequence[str], error: str) -> SealserveError:
    reason = _last(error)
    if any(text in error for text in _UNREACHABLE):
        return ContainersCode.DOCKER_UNREACHABLE.error(
            f"The Docker engine does not answer: {reason}",
            hint="Start it (`systemctl start docker`), or add your user to the group docker. To select an engine, "
            "set DOCKER_HOST.",
        )
    kind = EngineAbsentError if any(text in reason for text in _ABSENT) else EngineRefusedError
    return kind(f"`docker {' '.join(arguments[:2])}` failed: {reason}")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Run 'docker")]
    begun = [number for number, line in enumerate(lines) if line.startswith(_DAEMON)]
    said = " ".join(lines[begun[-1] :]) if begun else (lines or ["it printed no reason."])[-1]
    return said.removeprefix(_DAEMON)
