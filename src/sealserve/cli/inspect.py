"""``sealserve inspect``: what everybody can read in a sealed file, and what its key shows."""

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
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A sealed file.")],
    key_file: Annotated[
        Path | None, typer.Option("--key-file", "-w", help="Show what this key opens, too.", show_default="none")
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="The path that it must be bound to.", show_default="any; the one found is shown")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="With the key: verify every node.")] = False,
) -> None:
    """Show a sealed file. Without a key: its public part, of which nothing is authenticated. Nothing is written."""
    if key_file is None and (verify or path is not None):
        raise CliCode.INSPECT_KEY_NEEDED.error(
            f"{source} cannot be verified without its key.",
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
    return fields | ({"trailing": f"{opened.trailing} bytes of no meaning"} if opened.trailing else {})
