"""Arguments of ``docker`` that create networks and containers.

Source: docs.docker.com/reference/cli/docker/container/create, /network/create, /network/connect.
"""

from collections.abc import Iterator

from sealserve.cluster.docker.parts import (
    LOG_FILES,
    LOG_SIZE,
    MOST_PROCESSES,
    NO_HOST_ADDRESS,
    Attachment,
    Container,
    Mount,
    Network,
    Published,
    Tmpfs,
)

PROJECT: str = "sealserve.project"
ROLE: str = "sealserve.role"
DIGEST: str = "sealserve.digest"
NETWORK: str = "sealserve.network"
FACT: str = "sealserve.fact."


def network_create(network: Network, project: str) -> list[str]:
    """Return the arguments that create a network."""
    options = ["--internal", "--opt", f"{NO_HOST_ADDRESS}=true"] if network.internal else []
    return [
        "network", "create", "--driver", "bridge", "--subnet", str(network.subnet), *options,
        "--label", f"{PROJECT}={project}", "--label", f"{NETWORK}={network.name}", f"{project}-{network.name}",
    ]  # fmt: skip


def network_connect(container: str, place: Attachment, project: str) -> list[str]:
    """Return the arguments that connect a container to a further network."""
    aliases = [option for alias in place.aliases for option in ("--alias", alias)]
    return ["network", "connect", "--ip", place.address, *aliases, f"{project}-{place.network}", container]


def container_create(container: Container, project: str) -> list[str]:
    """Return the arguments that create a container in its first network. They do not start it."""
    return [
        "container", "create", "--name", f"{project}-{container.name}", "--hostname", container.role,
        *(f"--label={name}={value}" for name, value in labels(container, project).items()),
        "--pull", "never", "--restart", "unless-stopped",
        "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        *(["--security-opt", f"seccomp={container.seccomp}"] if container.seccomp else []),
        "--user", container.user, *(f"--group-add={group}" for group in container.groups),
        "--pids-limit", str(MOST_PROCESSES),
        "--log-driver", "json-file", "--log-opt", f"max-size={LOG_SIZE}", "--log-opt", f"max-file={LOG_FILES}",
        "--stop-timeout", str(container.grace),
        "--health-cmd", container.health, "--health-interval", "5s", "--health-timeout", "5s",
        "--health-retries", "3", "--health-start-period", "300s",
        *_place(container.networks, project),
        *(f"--mount={mount_option(mount)}" for mount in container.mounts),
        *(f"--tmpfs={tmpfs_option(tmpfs, container.user)}" for tmpfs in container.tmpfs),
        *(f"--device={device}" for device in container.devices),
        *(f"--publish={_published(port)}" for port in container.published),
        container.image, *container.command,
    ]  # fmt: skip


def labels(container: Container, project: str) -> dict[str, str]:
    """Return the labels by which the target finds its containers and their properties."""
    facts = {f"{FACT}{name}": value for name, value in container.facts.items()}
    return {PROJECT: project, ROLE: container.role, DIGEST: container.digest, **facts}


def mount_option(mount: Mount) -> str:
    """Return a bind mount in the form that ``--mount`` accepts."""
    return f"type=bind,source={mount.source},target={mount.target}{',readonly' if mount.read_only else ''}"


def tmpfs_option(tmpfs: Tmpfs, user: str) -> str:
    """Return a file system in memory that only ``user`` (``UID:GID``) can read, as a value of ``--tmpfs``."""
    uid, _, gid = user.partition(":")
    return f"{tmpfs.target}:size={tmpfs.size},mode=0700,uid={uid},gid={gid},noexec,nosuid,nodev"


def _place(networks: tuple[Attachment, ...], project: str) -> Iterator[str]:
    if not networks:
        yield from ("--network", "none")
        return
    first = networks[0]
    yield from ("--network", f"{project}-{first.network}", "--ip", first.address)
    yield from (f"--network-alias={alias}" for alias in first.aliases)
    yield from ("--dns", "127.0.0.1")  # names that Docker's own DNS does not resolve are not forwarded elsewhere


def _published(port: Published) -> str:
    ports = f"{port.port}:{port.target}"
    address = port.host_address
    if address is None:
        return ports
    return f"[{address}]:{ports}" if ":" in address else f"{address}:{ports}"
