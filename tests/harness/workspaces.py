"""Workspaces with a tiny model, as a person would have set them up."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.harness.tiny_model import saved_model

from sealserve import deployment
from sealserve.deployment import Deployment
from sealserve.owner import certificates, enclaves, models, releases
from sealserve.sealing.release import Release
from sealserve.workspace import Workspace

NAME = "half-plus-two"


@dataclass(frozen=True, slots=True)
class Site:
    """A workspace and what its ``sealserve.toml`` describes."""

    workspace: Workspace
    deployment: Deployment

    @property
    def directory(self) -> Path:
        """The folder that holds ``sealserve.toml``."""
        return self.workspace.directory

    @property
    def now(self) -> datetime:
        """The time: tests of operations use the real one, since certificates are checked against it later."""
        return datetime.now(UTC)

    def import_model(self) -> Path:
        """Bring the models in; return the first one's folder."""
        folders = [models.bring_in(self.workspace, model).folder for model in self.deployment.models]
        return folders[0]

    def certify(self) -> None:
        """Create the certificates."""
        certificates.create_certificates(self.workspace, self.deployment, now=self.now)

    def build_release(self) -> Release:
        """Build a release."""
        return releases.build(self.workspace, self.deployment, now=self.now)

    def build_enclave(self, release: Path, *, name: str = "replica-0", port: int = 8510) -> None:
        """Build one of a release's enclaves."""
        spec = enclaves.specify(self.workspace, self.deployment, release, name=name, port=port)
        enclaves.build(self.workspace, release, spec, now=self.now)


def on_server(site: Site, url: str) -> Site:
    """Point the site's file to a database on the server."""
    path = site.workspace.deployment_file
    text = path.read_text(encoding="utf-8")
    before, section, after = text.partition("[database]")
    after = after.replace('# url = "..."', f'url = "{url}"', 1)
    path.write_text(before + section + after, encoding="utf-8")
    return replace(site, deployment=deployment.read(path))


def make_site(directory: Path, *, source: Path | None = None, **sections: Any) -> Site:
    """Write a ``sealserve.toml`` for a tiny SavedModel (or ``source``), and make the workspace's folders.

    Args:
        directory: The folder; made where it is missing.
        source: Another model.
        sections: Settings by section (``service={"port": 1}``), or values of the top level; ``model`` may be a list.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = source or saved_model(directory / NAME)
    given = sections.get("model", {})
    several = [{"name": NAME, "path": path, **model} for model in (given if isinstance(given, list) else [given])]
    settings = {**sections, "model": several if isinstance(given, list) else several[0]}
    text = deployment.write_example(settings)
    workspace = Workspace(directory)
    workspace.deployment_file.write_text(text, encoding="utf-8")
    workspace.create()
    return Site(workspace, deployment.read(workspace.deployment_file))
