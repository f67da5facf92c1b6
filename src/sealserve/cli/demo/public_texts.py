"""Texts that every host has, independently of the model, and that a model can contain by chance.

A model can contain the path of the folder in which it was created, the names of its service, or a text that every
SavedModel contains. The same texts are in the host's configuration and logs. They reveal nothing about the model.
"""

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import sealserve
from sealserve.deployment import Deployment
from sealserve.enclave.measurement import enclave_names, load_enclave
from sealserve.sealing.release_index import INDEX_FILE, parse_index
from sealserve.serving_interface import METHODS
from sealserve.workspace import Workspace


def of(workspace: Workspace, deployment: Deployment, release: Path) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Return the public texts and the places; see `sealserve.cli.demo.exposure.Exposure`.

    Args:
        workspace: The demo's workspace.
        deployment: The demo's deployment.
        release: The folder of the release, with its enclaves.
    """
    names = [*_index_names(release), *_service_names(deployment)]
    places = [*names, *_folders(workspace)]
    public = [*METHODS, *_measured_paths(release)]
    return [*map(os.fsencode, public), *_own_sources()], sorted({os.fsencode(place) for place in places})


def _index_names(release: Path) -> Iterator[str]:
    """Yield the names in the release's public index."""
    index = parse_index((release / INDEX_FILE).read_bytes())
    yield release.name
    yield from (servable.name for servable in index.servables)
    yield from (file.path for file in index.files)


def _service_names(deployment: Deployment) -> Iterator[str]:
    """Yield the values of ``sealserve.toml`` that are copied into NGINX's configuration and the manifests."""
    service, broker = deployment.service, deployment.broker
    yield from (service.name, service.client_name, service.listen, broker.name, broker.address, broker.listen)
    yield from (text for text in (broker.reached_at, broker.collateral_url) if text is not None)


def _folders(workspace: Workspace) -> Iterator[str]:
    """Yield the folders that programs and logs on this machine name: workspace, home, Python's folders, parents."""
    places = [workspace.root, workspace.root.resolve(), Path.cwd(), Path.home(), Path(tempfile.gettempdir())]
    places += [
        Path(sys.executable),
        Path(sys.prefix),
        Path(sys.base_prefix),
        *map(Path, sysconfig.get_paths().values()),
    ]
    for place in places:
        yield from (str(folder) for folder in (place, *place.parents) if folder != Path(folder.anchor))


def _measured_paths(release: Path) -> Iterator[str]:
    """Yield the paths of the programs and libraries that the enclaves' manifests list."""
    for name in enclave_names(release):
        manifest = load_enclave(release, name).manifest
        yield from (file.uri for file in manifest.sgx.trusted_files)


def _own_sources() -> Iterator[bytes]:
    """Yield sealserve's source files, which contain the texts of its logs and configuration files."""
    for path in sorted(Path(sealserve.__file__).parent.rglob("*.py")):
        yield path.read_bytes()
