"""The context of a verb: the workspace, the deployment in ``sealserve.toml``, and the output format."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import remote_broker
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output
from sealserve.cli.verbs import Options

with deferred:
    from sealserve import deployment, workspace
    from sealserve.deployment import Deployment
    from sealserve.workspace import Workspace


@dataclass(frozen=True)
class Place(Options):
    """Option for the folder of the deployment."""

    directory: Annotated[
        Path,
        typer.Option(
            "--directory",
            "-C",
            envvar="SEALSERVE_DIRECTORY",
            help="Folder with sealserve.toml, or a folder below it",
            show_default="current folder",
        ),
    ] = Path()

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace of the folder, or of the nearest parent folder that has one.

        Raises:
            WorkspaceMissingError: Neither the folder nor a parent folder has a workspace.
            InputError: `broker.owner-machine`: The command line names a remote broker.
        """
        remote_broker.require_local()
        return workspace.find(self.directory)

    @cached_property
    def deployment(self) -> Deployment:
        """The deployment that ``sealserve.toml`` describes.

        Raises:
            SealserveError: The file is not valid.
        """
        return deployment.read(self.workspace.deployment_file)


@dataclass(frozen=True)
class Context(Output, Place):
    """Options of most verbs: the folder of the deployment, and the output format."""
