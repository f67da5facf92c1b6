"""The deployment as a Compose file: ``docker compose up`` starts the same parts as ``sealserve up --target docker``.

Source: github.com/compose-spec/compose-spec, spec.md.
"""

from collections.abc import Sequence
from typing import Any

import yaml

from sealserve.cluster.docker.commands import tmpfs_option
from sealserve.cluster.docker.parts import (
    LOG_FILES,
    LOG_SIZE,
    MOST_PROCESSES,
    NO_HOST_ADDRESS,
    Attachment,
    Container,
    Network,
)

_HEADING = """\
# Written by `sealserve render docker`. Start it with `docker compose --file FILE up --detach --wait`.
# Each replica has its own network. To change the number of replicas, render this file again.
"""


def compose_file(project: str, networks: Sequence[Network], containers: Sequence[Container]) -> str:
    """Return the text of ``compose.yaml``.

    Args:
        project: The project's name.
        networks: All networks of the deployment.
        containers: All containers, each with all its networks. Their roles become the service names.
    """
    document = {
        "name": project,
        "services": {container.role: _service(container) for container in containers},
        "networks": {network.name: _network(network) for network in networks},
    }
    return _HEADING + yaml.safe_dump(document, sort_keys=False, width=120)


def _network(network: Network) -> dict[str, Any]:
    described: dict[str, Any] = {"driver": "bridge"}
    if network.internal:
        described |= {"internal": True, "driver_opts": {NO_HOST_ADDRESS: "true"}}
    return {**described, "ipam": {"config": [{"subnet": str(network.subnet)}]}}


def _service(container: Container) -> dict[str, Any]:
    security = ["no-new-privileges:true", *([f"seccomp:{container.seccomp}"] if container.seccomp else [])]
    service: dict[str, Any] = {
        "image": container.image,
        "pull_policy": "missing" if "/" in container.image else "never",
        "command": list(container.command),
        "hostname": container.role,
        "restart": "unless-stopped",
        "user": container.user,
        "group_add": [str(group) for group in container.groups],
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": security,
        "pids_limit": MOST_PROCESSES,
        "stop_grace_period": f"{container.grace}s",
        "logging": {"driver": "json-file", "options": {"max-size": LOG_SIZE, "max-file": str(LOG_FILES)}},
        "healthcheck": {
            "test": ["CMD-SHELL", container.health.replace("$", "$$")],
            "interval": "5s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "300s",
        },
        "devices": list(container.devices),
        "volumes": [
            {
                "type": "bind",
                "source": str(mount.source),
                "target": mount.target,
                "read_only": mount.read_only,
                "bind": {"create_host_path": False},
            }
            for mount in container.mounts
        ],
        "tmpfs": [tmpfs_option(tmpfs, container.user) for tmpfs in container.tmpfs],
        "ports": [
            {
                **({} if port.host_address is None else {"host_ip": port.host_address}),
                "published": str(port.port),
                "target": port.target,
                "protocol": "tcp",
            }
            for port in container.published
        ],
        "depends_on": {role: {"condition": "service_healthy"} for role in container.after},
    }
    if container.networks:
        service |= {
            "dns": ["127.0.0.1"],
            "networks": {place.network: _attachment(place) for place in container.networks},
        }
    else:
        service["network_mode"] = "none"
    return {name: value for name, value in service.items() if value not in ([], {})}


def _attachment(place: Attachment) -> dict[str, Any]:
    return {"ipv4_address": place.address, **({"aliases": list(place.aliases)} if place.aliases else {})}
