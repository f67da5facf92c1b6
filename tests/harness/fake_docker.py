"""A stand-in for the program ``docker``: it answers as configured by a test, and records its arguments."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

IMAGE = {
    "Id": "sha256:aa",
    "RepoDigests": ["r/x@sha256:bb"],
    "Size": 7,
    "Created": "2026-01-02T03:04:05.678Z",
    "RootFS": {"Layers": ["sha256:cc"]},
}
"""What `docker image inspect` says of an image."""

_PROGRAM = """#!{python} -I
import json, os, sys
folder = {folder!r}
with open(os.path.join(folder, "asked"), "a") as stream:
    stream.write(json.dumps(sys.argv[1:]) + "\\n")
with open(os.path.join(folder, "answers.json")) as stream:
    answers = json.load(stream)
line = " ".join(sys.argv[1:])
for beginning, answer in answers:
    if line.startswith(beginning):
        sys.stdout.write(answer.get("out", ""))
        sys.stdout.flush()
        sys.stderr.write(answer.get("err", ""))
        sys.exit(answer.get("status", 0))
sys.exit("Error response from daemon: unexpected: " + line)
"""


class FakeDocker:
    """What the stand-in says and heard.

    Args:
        folder: An empty folder, to be put first on the path.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "answers.json").write_text("[]")
        program = folder / "docker"
        program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.answers: list[tuple[str, dict[str, Any]]] = []

    def answer(self, beginning: str, out: Any = "", *, err: str = "", status: int = 0) -> None:
        """Answer a command that begins so; an earlier rule goes first."""
        text = out if isinstance(out, str) else json.dumps(out)
        self.answers.append((beginning, {"out": text, "err": err, "status": status}))
        (self._folder / "answers.json").write_text(json.dumps(self.answers))

    @property
    def asked(self) -> list[list[str]]:
        """Every command so far."""
        heard = self._folder / "asked"
        return [json.loads(line) for line in heard.read_text().splitlines()] if heard.exists() else []
