"""Options that mean the same in every verb that has them."""

from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import completion

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Fail at once if another command is changing the deployment.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]

Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="local, docker, kubernetes",
        show_default="the one in use, else that of sealserve.toml",
        autocompletion=completion.targets,
    ),
]

ReadyFile = Annotated[
    Path | None, typer.Option("--ready-file", help="Write this file when it answers.", show_default="none")
]

KeyFile = Annotated[Path, typer.Option("--key-file", "-w", help="The wrap key: a raw file of 16 bytes.")]

ReleaseName = Annotated[
    str | None,
    typer.Argument(metavar="[RELEASE]", help="A folder, or a release's name or the beginning of its id.",
                   show_default="the newest", autocompletion=completion.releases),
]  # fmt: skip
Release = Annotated[
    str | None,
    typer.Option(
        "--release",
        "-r",
        help="A release's name or folder.",
        show_default="the newest",
        autocompletion=completion.releases,
    ),
]
