"""Writes container images of a single static program as archives for ``ctr images import``, without a builder.

Source: the Docker image specification, v1.2 ("Combined Image JSON + Filesystem Changeset Format"),
https://github.com/moby/docker-image-spec/blob/main/spec.md.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_image(
    archive: Path,
    name: str,
    files: Mapping[str, Path],
    *,
    command: Sequence[str],
    links: Mapping[str, str] | None = None,
) -> None:
    """Write an image of one layer.

    Args:
        archive: The tar file to write.
        name: The image's name with its tag.
        files: The source file for each relative path in the image. All become executable.
        command: The image's entry point.
        links: Symbolic links in the image, each with its target.
    """
    layer = _layer(files, links or {})
    config = json.dumps({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": list(command), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode()  # fmt: skip
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    temporary = archive.with_suffix(".part")
    with tarfile.open(temporary, "w") as stream:
        for path, content in ((config_name, config), ("layer.tar", layer), ("manifest.json", manifest)):
            _add(stream, path, content)
    temporary.rename(archive)


def _layer(files: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as stream:
        for folder in sorted(
            {str(parent) for path in (*files, *links, "tmp/x") for parent in Path(path).parents} - {"."}
        ):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            stream.addfile(entry)
        for path, source in files.items():
            _add(stream, path, source.read_bytes(), mode=0o755)
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            stream.addfile(entry)
    return buffer.getvalue()


def _add(stream: tarfile.TarFile, path: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    stream.addfile(entry, io.BytesIO(content))
