"""``sealserve inspect``: show the public header of a sealed file, and with its key the decrypted metadata."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console
from sealserve.cli.codes import CliCode
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.sealing.codec import SealedContent, inspect_file, verify_file
    from sealserve.sealing.wrap_key import read_wrap_key

app = Verbs()


@app.command()
def inspect(
    result: Output,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Sealed file")],
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", "-w", help="Wrap key (16 raw bytes); decrypt and show the metadata too", show_default="none"
        ),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(help="Path to which the file must be bound", show_default="any path; the output shows it"),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Verify every node of the file (needs --key-file)")] = False,
) -> None:
    """Show the header of a sealed file, and with --key-file its decrypted metadata.

    Without a key, nothing that is shown is authenticated. The command never writes plaintext.
    """
    if key_file is None and (verify or path is not None):
        raise CliCode.INSPECT_KEY_NEEDED.error(
            f"{source} cannot be verified: --verify and --path need the key of the file.",
            hint="Give the key with --key-file.",
        )
    header = inspect_file(source)
    public: dict[str, object] = {
        "format": header.version.value,
        "minor_version": header.minor_version,
        "feature_flags": header.feature_flags,
        "size": f"{header.sealed_size} bytes, {header.nodes} nodes of 4096",
    }
    opened = None if key_file is None else _open(source, key_file, path, complete=verify)
    content = {} if opened is None else {"content": asdict(opened)}
    shown: dict[str, object] = {name.replace("_", " "): value for name, value in public.items()}
    result.show(
        public | {"sealed_size": header.sealed_size, "nodes": header.nodes} | content,
        shown | ({} if opened is None else _shown(opened)),
    )


def _open(source: Path, key_file: Path, path: str | None, *, complete: bool) -> SealedContent:
    with read_wrap_key(key_file) as key, console.bytes_progress("Verifying", console.size_of(source)) as progress:
        return verify_file(source, key=key, embedded_path=path, complete=complete, progress=progress)


def _shown(opened: SealedContent) -> dict[str, object]:
    fields: dict[str, object] = {
        "bound to": opened.embedded_path,
        "content": f"{opened.size} bytes in {opened.data_nodes} data nodes under {opened.mht_nodes} MHT nodes",
        "verified": "every node" if opened.complete else "node 0 (--verify: every node)",
    }
    return fields | ({"trailing": f"{opened.trailing} unused bytes after the end"} if opened.trailing else {})
