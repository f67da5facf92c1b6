"""A replica in a container, described once. The Docker and the Kubernetes target translate the description.

Whom a container runs as is not part of it: on Docker that is the workspace's user, on Kubernetes the namespace's.

Source: Gramine 1.9, pal/src/host/linux-sgx/host_framework.c (gramine-sgx opens /dev/sgx_enclave and aesmd's socket
only).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sealserve.cluster.container_layout import RELEASE_SLACK, SCRATCH_SIZE, WORKSPACE_FOLDER
from sealserve.containers.recipes import images_for, reference
from sealserve.deployment import Deployment
from sealserve.enclave.server_command import PRIVATE_ROOT
from sealserve.host.facts import AESM_FOLDER, ENCLAVE_DEVICE
from sealserve.terms import PlatformKind
from sealserve.workspace import DEPLOYMENT_FILE, FOLDER

RELEASES: Final = f"{WORKSPACE_FOLDER}/{FOLDER}/host/releases"
SIMULATED_QUOTING_FOLDER: Final = "/run/sealserve-simulated"
"""Where the simulated platform answers, as aesmd would."""

GRPC_PORT_NAME: Final = "grpc"
REST_PORT_NAME: Final = "rest"
"""What the ports of a replica are called, and those of NGINX before it."""

METRICS_PORT: Final = "metrics"
"""What the port of a replica's metrics is called."""

_TEMPORARY: Final = "/tmp"  # noqa: S108  # the container's own


class Content(StrEnum):
    """What a replica finds at a path."""

    SETTINGS = "settings"
    """The file ``sealserve.toml``. An enclave's own settings are measured and are not in it."""
    RELEASE = "release"
    """The folder of the sealed release."""
    SCRATCH = "scratch"
    """A folder for temporary files."""
    QUOTING = "quoting"
    """The folder with the socket of the quoting enclave."""
    MEMORY = "memory"
    """A folder in memory, which only the replica's user can read: a simulated enclave's private files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A path that a replica needs.

    Args:
        content: What is there.
        target: The path in the container.
        size: The largest size in bytes of a folder that the replica fills; 0 for what it only reads.
        read_only: Whether the replica only reads it. Gramine opens encrypted files for writing.
    """

    content: Content
    target: str
    size: int = 0
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What a replica runs, and what it needs.

    Args:
        image: The image of the model server.
        command: The arguments of the image's entry point.
        mounts: The paths that it needs, in order.
        devices: The devices that it opens.
        ports: Where its server listens, by name.
    """

    image: str
    command: tuple[str, ...]
    mounts: tuple[Mount, ...]
    devices: tuple[str, ...]
    ports: Mapping[str, int]


def describe_replica(
    deployment: Deployment,
    *,
    release: str,
    size: int,
    enclave: str,
    port: int,
    rest_port: int | None = None,
    attempts: int | None = None,
) -> Replica:
    """Return the description of a replica.

    Args:
        deployment: What is deployed.
        release: The release's name.
        size: The bytes of the release's sealed files.
        enclave: The name of the enclave in it.
        port: Where the enclave's server listens for gRPC.
        rest_port: Where it listens for REST, or None if REST is off.
        attempts: On SGX, how often the enclave is started before the container ends; by default, as `enclave run` does.
    """
    simulated = deployment.platform is PlatformKind.SIMULATED
    place = f"{RELEASES}/{release}"
    command = ["enclave", "run", "--directory", WORKSPACE_FOLDER, "--name", enclave, "--release", place]
    mounts = [
        Mount(content=Content.SETTINGS, target=f"{WORKSPACE_FOLDER}/{DEPLOYMENT_FILE}", read_only=True),
        Mount(content=Content.RELEASE, target=place, read_only=simulated),
        Mount(content=Content.SCRATCH, target=_TEMPORARY, size=SCRATCH_SIZE),
    ]
    if simulated:
        command += ["--quoting-socket", f"{SIMULATED_QUOTING_FOLDER}/quoting.sock"]
        mounts += [
            Mount(content=Content.QUOTING, target=SIMULATED_QUOTING_FOLDER, read_only=True),
            Mount(content=Content.MEMORY, target=PRIVATE_ROOT, size=size + RELEASE_SLACK),
        ]
    else:
        command += [] if attempts is None else ["--attempts", str(attempts)]
        mounts.append(Mount(content=Content.QUOTING, target=AESM_FOLDER, read_only=True))
    metrics = deployment.server.metrics_port
    named = {GRPC_PORT_NAME: port, REST_PORT_NAME: rest_port, METRICS_PORT: metrics}
    return Replica(
        image=reference(deployment.images.prefix, images_for(deployment.platform)[-1], deployment.images.tag),
        command=tuple(command),
        mounts=tuple(mounts),
        devices=() if simulated else (ENCLAVE_DEVICE,),
        ports={name: number for name, number in named.items() if number is not None},
    )
