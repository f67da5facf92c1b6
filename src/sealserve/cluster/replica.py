"""The description of a replica in a container, which the Docker and the Kubernetes target translate.

The container's user is not part of the description. On Docker it is the workspace's user, on Kubernetes the
namespace's.

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
from sealserve.terms import PlatformKind, RuntimeKind
from sealserve.workspace import DEPLOYMENT_FILE, FOLDER

RELEASES: Final = f"{WORKSPACE_FOLDER}/{FOLDER}/host/releases"
SIMULATED_QUOTING_FOLDER: Final = "/run/sealserve-simulated"
"""Folder of the simulated platform's socket, which takes the place of aesmd's socket."""

GRPC_PORT_NAME: Final = "grpc"
REST_PORT_NAME: Final = "rest"
"""Names of the ports of a replica, and of the corresponding ports of NGINX."""

METRICS_PORT: Final = "metrics"
"""Name of the port for a replica's metrics."""

_TEMPORARY: Final = "/tmp"  # noqa: S108  # the container's own folder


class Content(StrEnum):
    """The content at a path of a replica's container."""

    SETTINGS = "settings"
    """The file ``sealserve.toml``. Settings of the enclave are measured and are not read from this file."""
    RELEASE = "release"
    """The folder of the sealed release."""
    SCRATCH = "scratch"
    """A folder for temporary files."""
    QUOTING = "quoting"
    """The folder with the socket of the quoting enclave."""
    MEMORY = "memory"
    """A folder in memory for a simulated enclave's private files. Only the replica's user can read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A path that a replica needs.

    Args:
        content: The content at this path.
        target: The path in the container.
        size: Maximum size in bytes of a folder that the replica writes to. 0 for content that it only reads.
        read_only: Whether the replica only reads it. Gramine opens encrypted files for writing.
    """

    content: Content
    target: str
    size: int = 0
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """The command of a replica, and the resources that it needs.

    Args:
        image: The image of the model server.
        command: Arguments for the image's entry point.
        mounts: The paths that it needs, in order.
        devices: The devices that it opens.
        ports: The ports that its server listens on, by name.
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
        deployment: The deployment.
        release: The release's name.
        size: Total size in bytes of the release's sealed files.
        enclave: The name of the enclave in the release.
        port: The port of the enclave's server for gRPC.
        rest_port: The port for REST, or None if REST is off.
        attempts: On SGX, maximum number of enclave starts before the container ends. None uses the
            default of `enclave run`.
    """
    simulated, direct = deployment.platform is PlatformKind.SIMULATED, deployment.runtime is RuntimeKind.GRAMINE_DIRECT
    place = f"{RELEASES}/{release}"
    command = ["enclave", "run", "--directory", WORKSPACE_FOLDER, "--name", enclave, "--release", place]
    mounts = [
        Mount(content=Content.SETTINGS, target=f"{WORKSPACE_FOLDER}/{DEPLOYMENT_FILE}", read_only=True),
        Mount(content=Content.RELEASE, target=place, read_only=simulated and not direct),
        Mount(content=Content.SCRATCH, target=_TEMPORARY, size=SCRATCH_SIZE),
    ]
    if simulated:
        command += ["--quoting-socket", f"{SIMULATED_QUOTING_FOLDER}/quoting.sock"]
        mounts.append(Mount(content=Content.QUOTING, target=SIMULATED_QUOTING_FOLDER, read_only=True))
        if direct:  # Gramine decrypts in its own memory
            command += ["--platform", RuntimeKind.GRAMINE_DIRECT]
        else:
            mounts.append(Mount(content=Content.MEMORY, target=PRIVATE_ROOT, size=size + RELEASE_SLACK))
    else:
        command += [] if attempts is None else ["--attempts", str(attempts)]
        mounts.append(Mount(content=Content.QUOTING, target=AESM_FOLDER, read_only=True))
    metrics = deployment.server.metrics_port
    named = {GRPC_PORT_NAME: port, REST_PORT_NAME: rest_port, METRICS_PORT: metrics}
    return Replica(
        image=reference(deployment.images.prefix, images_for(deployment.runtime)[-1], deployment.images.tag),
        command=tuple(command),
        mounts=tuple(mounts),
        devices=() if simulated else (ENCLAVE_DEVICE,),
        ports={name: number for name, number in named.items() if number is not None},
    )
