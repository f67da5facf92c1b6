"""A Docker engine for tests, and sealserve's images: built as a person builds them, and kept for the next tests.

What was built is kept in ``build/docker`` as an archive, under a digest of all that goes into the images from this
machine; the distribution's packages are those of the day on which they were built.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from testbed.docker.base_image import BASE, make_base_image
from testbed.docker.engine import answers, install, own_engine
from tests.harness.missing import missing
from tests.harness.running import command
from tests.harness.workspaces import make_site

import sealserve

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / "build" / "docker"
BASE_ARCHIVE: Final = CACHE / "base.tar"
_PREFIX: Final = "sealserve"
_KEPT: Final = ("broker", "front", "server-simulated")


@dataclass(frozen=True, slots=True)
class Images:
    """Images of a simulated deployment.

    Args:
        prefix: What their names start with.
        tag: Their tag: of kept ones the digest of their sources, so that a node never has others of that name.
        archive: All of them, as `docker save` writes them; None where a cluster has them.
        inventory: What an enclave in the server's image trusts; None to take it from the engine's image.
    """

    prefix: str
    tag: str
    archive: Path | None = None
    inventory: Path | None = None


@contextlib.contextmanager
def running_engine() -> Iterator[None]:
    """Let ``docker`` reach the engine that runs here, or one of our own until the block ends."""
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        if os.geteuid() == 0:
            install()
        if shutil.which("docker") is None or not answers():
            if os.geteuid() != 0:
                missing("no Docker engine answers, and only root can start one")
            patch.setenv("DOCKER_HOST", stack.enter_context(own_engine()))
        yield


def build_images(*arguments: str | Path) -> list[dict[str, Any]]:
    """Run `sealserve image build`; return what it says of each image. It may take minutes."""
    line = command("image", "build", "--network", "host", "--wheels", CACHE / "wheels", "--json", *arguments)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    built = json.loads(done.stdout)
    assert isinstance(built, list)
    return built


def keep_images(built: Sequence[dict[str, Any]]) -> Images:
    """Keep the images that a cluster needs, and forget those of other sources."""
    by_name = {image["name"]: image for image in built}
    kept = _place()
    assert kept.archive is not None
    assert kept.inventory is not None
    if not kept.archive.is_file():
        for old in CACHE.glob("images-*"):
            old.unlink()
        shutil.copyfile(by_name["server-simulated"]["inventory"], kept.inventory)
        partial = kept.archive.with_suffix(".partial")
        names = [by_name[name]["reference"] for name in _KEPT]
        ours = [f"{kept.prefix}-{name}:{kept.tag}" for name in _KEPT]
        for name, own in zip(names, ours, strict=True):
            subprocess.run(["docker", "tag", name, own], check=True)
        subprocess.run(["docker", "save", "--output", str(partial), *names, *ours], check=True)
        partial.rename(kept.archive)
    return kept


def kept_images() -> Images:
    """Return the images of these sources: those that were kept, or new ones. That may take minutes."""
    if BASE_ARCHIVE.is_file() and (kept := _place()).archive is not None and kept.archive.is_file():
        return kept
    with running_engine(), TemporaryDirectory(prefix="sealserve-") as folder:
        make_base_image(BASE_ARCHIVE)
        site = make_site(Path(folder), images={"prefix": _PREFIX})
        return keep_images(build_images(*_KEPT, "--base", BASE, "--directory", site.directory))


def _place() -> Images:
    """Return where the images of these sources are kept."""
    digest = hashlib.sha256()
    package = Path(sealserve.__path__[0])
    sources = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for path in sorted([*sources, ROOT / "pyproject.toml", BASE_ARCHIVE]):
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    tag = digest.hexdigest()[:16]
    name = f"images-{tag}"
    return Images(_PREFIX, tag, CACHE / f"{name}.tar", CACHE / f"{name}.inventory.json")
