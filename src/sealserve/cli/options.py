"""Options that several verbs share, with the same meaning in each verb."""

from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import completion
from sealserve.cli.deferred_imports import deferred

with deferred:
    from sealserve.atomic_file import OutputExistsError

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation")]
NoWait = Annotated[
    bool,
    typer.Option("--no-wait", help="Fail immediately if another command is changing the deployment; default: wait"),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output")]

Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="Target of the deployment: local, docker or kubernetes",
        show_default="the target in use, else target.kind",
        autocompletion=completion.targets,
    ),
]

FORM_OF_KEY_HELP = "Form of the key: raw (16 bytes), or string (32 hexadecimal digits and a NUL)"

ReadyFile = Annotated[
    Path | None,
    typer.Option("--ready-file", help="File to write when the service is ready", show_default="none"),
]

KeyFile = Annotated[Path, typer.Option("--key-file", "-w", help="File with the wrap key, 16 raw bytes")]

ReleaseName = Annotated[
    str | None,
    typer.Argument(metavar="[RELEASE]", help="Name or folder of a release, or the beginning of its id",
                   show_default="the newest release", autocompletion=completion.releases),
]  # fmt: skip
ServedRelease = Annotated[
    str | None,
    typer.Option(
        "--release",
        "-r",
        help="Name or folder of the release to serve, or the beginning of its id",
        show_default="the release that served last, or a new one",
        autocompletion=completion.releases,
    ),
]
Release = Annotated[
    str | None,
    typer.Option(
        "--release",
        "-r",
        help="Name or folder of a release, or the beginning of its id",
        show_default="the newest release",
        autocompletion=completion.releases,
    ),
]


def refuse_existing(output: Path | None, *, force: bool) -> None:
    """Check that an output does not exist yet, or may be replaced.

    Args:
        output: The path, or None without an output.
        force: The option --force.

    Raises:
        OutputExistsError: The path already exists.
    """
    if output is not None and output.exists() and not force:
        raise OutputExistsError(f"{output} already exists.", hint="Give another output, or --force to replace it.")
