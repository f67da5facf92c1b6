"""``sealserve seal``: plaintext files to Gramine encrypted files."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output
from sealserve.cli.verbs import Verbs
from sealserve.sealing.format_version import FormatVersion

with deferred:
    from sealserve.sealing.codec import seal_file
    from sealserve.sealing.embedded_path import normalise
    from sealserve.sealing.tree import seal_tree
    from sealserve.sealing.wrap_key import create_wrap_key, read_wrap_key
    from sealserve.secret import SecretBytes

app = Verbs()


@app.command()
def seal(
    result: Output,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A file, or a folder with all its files.")],
    destination: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the sealed file or folder appears.")],
    key_file: options.KeyFile,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make the key file first.")] = False,
    path: Annotated[
        str | None, typer.Option(help="The path to bind it to.", show_default="the normalised OUTPUT")
    ] = None,
    file_format: Annotated[
        FormatVersion, typer.Option("--format", help="Every Gramine reads 1.0; 1.9 and later read 2.0 too.")
    ] = FormatVersion.V1_0,
    force: options.Force = False,
) -> None:
    """Seal a file or a folder, interchangeable with gramine-sgx-pf-crypt."""
    embedded = path if path is not None else normalise(str(destination))
    with (
        _wrap_key(key_file, new=new_key) as key,
        console.bytes_progress("Sealing", console.size_of(source)) as progress,
    ):
        if source.is_dir():
            entries = seal_tree(source, destination, key=key, prefix=embedded, version=file_format, progress=progress)
        else:
            sealed = seal_file(
                source,
                destination,
                key=key,
                embedded_path=embedded,
                version=file_format,
                overwrite=force,
                progress=progress,
            )
    bound: dict[str, object] = {"path": embedded, "format": file_format.value}
    if source.is_dir():
        total = sum(entry.sealed.plain_size for entry in entries)
        result.show(
            bound | {"files": [{"path": entry.path, **asdict(entry.sealed)} for entry in entries]},
            f"Sealed {len(entries)} files, {total} bytes, to {destination}, bound to {embedded}/.",
        )
    else:
        result.show(
            bound | asdict(sealed),
            f"Sealed {sealed.plain_size} bytes to {destination}, bound to the path {embedded}.",
        )


@contextlib.contextmanager
def _wrap_key(path: Path, *, new: bool) -> Iterator[SecretBytes]:
    """Yield the key, and wipe it at the end. A new one that sealed nothing leaves no file."""
    with create_wrap_key(path) if new else read_wrap_key(path) as key:
        try:
            yield key
        except BaseException:
            if new:
                path.unlink(missing_ok=True)
            raise
