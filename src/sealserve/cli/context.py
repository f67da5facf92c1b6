"""The context of a verb: the workspace, what ``sealserve.toml`` describes, and where the result goes."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output
from sealserve.cli.verbs import Options

with deferred:
    from sealserve import deployment, workspace
    from sealserve.deployment import Deployment
    from sealserve.workspace import Workspace


@dataclass(frozen=True)
class Place(Options):
    """The folder that a verb works on."""

    directory: Annotated[
        Path,
        typer.Option(
            "--directory",
            "-C",
            envvar="SEALSERVE_DIRECTORY",
            help="The folder that holds sealserve.toml.",
            show_default=".",
        ),
    ] = Path()

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace of the folder, or of the nearest folder above it.

        Raises:
            WorkspaceMissingError: There is none.
        """
        return workspace.find(self.directory)

    @cached_property
    def deployment(self) -> Deployment:
        """What ``sealserve.toml`` describes.

        Raises:
            SealserveError: The file is not valid.
        """
        return deployment.read(self.workspace.deployment_file)


@dataclass(frozen=True)
class Context(Output, Place):
    """The folder that a verb works on, and where its result goes."""
