"""Texts that a host has whatever the model is, and that a model can contain by chance.

A model can hold the path of the folder that it was made in, the names that its service has, or a text that every
SavedModel has. The same texts are in the host's configuration and logs, and tell nothing of the model.
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
    """Return the texts that are public as a whole, and the places; see `sealserve.cli.demo.exposure.Exposure`.

    Args:
        workspace: The demo's.
        deployment: What it describes.
        release: The folder of the release, with its enclaves.
    """
    names = [*_index_names(release), *_service_names(deployment)]
    places = [*names, *_folders(workspace)]
    public = [*METHODS, *_measured_paths(release)]
    return [*map(os.fsencode, public), *_own_sources()], sorted({os.fsencode(place) for place in places})


def _index_names(release: Path) -> Iterator[str]:
    """Yield what the release's public index names."""
    index = parse_index((release / INDEX_FILE).read_bytes())
    yield release.name
    yield from (servable.name for servable in index.servables)
    yield from (file.path for file in index.files)


def _service_names(deployment: Deployment) -> Iterator[str]:
    """Yield what the configuration of NGINX and the manifests take from ``sealserve.toml``."""
    service, broker = deployment.service, deployment.broker
    yield from (service.name, service.client_name, service.listen, broker.name, broker.address, broker.listen)
    yield from (text for text in (broker.reached_at, broker.collateral_url) if text is not None)


def _folders(workspace: Workspace) -> Iterator[str]:
    """Yield the folders of this machine that its programs and logs name: that of the workspace, Python's, all above."""
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
    """Yield sealserve's own source, where the words of its logs and of its configuration files are from."""
    for path in sorted(Path(sealserve.__file__).parent.rglob("*.py")):
        yield path.read_bytes()
