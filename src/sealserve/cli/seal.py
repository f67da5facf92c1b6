"""``sealserve seal``: encrypt files in Gramine's format for encrypted files."""

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
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="File, or folder with all files below it")],
    destination: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Sealed file or folder to create")],
    key_file: options.KeyFile,
    new_key: Annotated[bool, typer.Option("--new-key", help="Create the key file with a random key first")] = False,
    path: Annotated[
        str | None,
        typer.Option(
            help="Path to which the file is bound; it can be opened only under this path",
            show_default="OUTPUT, normalized",
        ),
    ] = None,
    file_format: Annotated[
        FormatVersion,
        typer.Option("--format", help="Format version. 1.0: every version of Gramine; 2.0: Gramine 1.9 and later"),
    ] = FormatVersion.V1_0,
    force: options.Force = False,
) -> None:
    """Encrypt a file or a folder in the format of gramine-sgx-pf-crypt.

    Gramine and gramine-sgx-pf-crypt can open the files. `sealserve unseal` can open files from these tools.
    """
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
    """Yield the key, and wipe it at the end. If sealing fails, the file of a new key is removed."""
    with create_wrap_key(path) if new else read_wrap_key(path) as key:
        try:
            yield key
        except BaseException:
            if new:
                path.unlink(missing_ok=True)
            raise
