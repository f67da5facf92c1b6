"""The files that the containers read: NGINX's configuration, and a ``sealserve.toml`` that fits their networks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import tomli_w

from sealserve.atomic_file import write_file
from sealserve.cluster.container_layout import RUN_FOLDER
from sealserve.cluster.docker import keystore_files
from sealserve.cluster.docker.layout import RELAY, ContainerLayout
from sealserve.cluster.docker.ownership import QUOTING
from sealserve.cluster.docker.seccomp import gramine_direct_profile
from sealserve.cluster.docker.served import Served
from sealserve.cluster.target import BROKER, NGINX, PCS, drain_seconds
from sealserve.deployment import Deployment
from sealserve.held_tree import held
from sealserve.ingress.nginx_config import STREAM_MODULE, NginxConfig, RestRoute, Upstream, render, render_relay
from sealserve.tcp_ports import REST_PORT, SERVICE_PORT, SIMULATED_PCS_PORT
from sealserve.terms import EVERY_IPV4_ADDRESS, PlatformKind
from sealserve.workspace import DEPLOYMENT_FILE

SECCOMP_FILE: Final = "gramine-direct-seccomp.json"
_HIDDEN: Final = {"path"}  # where the owner keeps a model is no container's business


def write_configuration(
    layout: ContainerLayout,
    described: Deployment,
    served: Served,
    *,
    broker: Upstream | None,
    needs_passphrase: bool = False,
) -> None:
    """Write everything but NGINX's list of replicas; what is there already is replaced.

    Args:
        layout: Says where.
        described: The deployment as the containers see it.
        served: What the replicas serve.
        broker: Where the relay finds the broker, or None where the broker is here.
        needs_passphrase: Whether the file of the broker's master key is encrypted under a passphrase.

    Raises:
        InputError: `target.unsupported`: The broker's container could not open the keystore.
    """
    if broker is None:
        keystore_files.check(layout.workspace, described.keystore, user=layout.user, needs_passphrase=needs_passphrase)
    for name in (NGINX, QUOTING, *([RELAY] if broker else [])):
        _make_readable(layout.folder / name)
    write_file(layout.folder / DEPLOYMENT_FILE, container_deployment(described).encode())
    if broker is not None:
        text = render_relay(served.broker[1], broker, run_folder=Path(RUN_FOLDER), stream_module=STREAM_MODULE)
        write_file(layout.folder / RELAY / "nginx.conf", text.encode())


def write_front(
    layout: ContainerLayout,
    described: Deployment,
    upstreams: Sequence[Upstream],
    rest: Sequence[Upstream] = (),
    *,
    ages: Sequence[int | None] = (),
) -> bool:
    """Write NGINX's configuration; return whether it is another one than before.

    Args:
        layout: Says where.
        described: The deployment.
        upstreams: The replicas; at least one.
        rest: The same replicas' ports for REST; empty if it is off.
        ages: After how many seconds each of the replicas drains a connection; None where that is not known.
    """
    config = NginxConfig(
        listen=layout.front_address,
        port=SERVICE_PORT,
        service_name=described.service.name,
        upstreams=upstreams,
        run_folder=Path(RUN_FOLDER),
        log_folder=None,
        stream_module=STREAM_MODULE,
        drain_timeout=drain_seconds(described, ages),
        rest=RestRoute(port=REST_PORT, upstreams=rest),
    )
    path, content = layout.folder / NGINX / "nginx.conf", render(config).encode()
    if path.is_file() and path.read_bytes() == content:
        return False
    _make_readable(path.parent)
    write_file(path, content)
    return True


def write_seccomp(folder: Path) -> Path:
    """Write the profile for gramine-direct into ``folder``, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SECCOMP_FILE
    write_file(path, (json.dumps(gramine_direct_profile(), indent=1) + "\n").encode())
    return path


def _make_readable(folder: Path) -> None:
    """Make a folder that the containers' user can read whatever the umask is; nothing in it is secret."""
    folder.mkdir(parents=True, exist_ok=True)
    for found in held(folder):
        if found.is_folder:
            found.change_mode(0o755)


def container_deployment(described: Deployment) -> str:
    """Return the ``sealserve.toml`` of the containers: the broker listens in its networks; the vendor is in one."""
    settings: dict[str, Any] = described.model_dump(mode="json", by_alias=True, exclude_none=True)
    settings["model"] = [
        {key: value for key, value in model.items() if key not in _HIDDEN} for model in settings["model"]
    ]
    for name in keystore_files.FIELDS:
        if name in settings["keystore"]:
            settings["keystore"][name] = keystore_files.place(name)
    settings[BROKER]["listen"] = EVERY_IPV4_ADDRESS  # in a container, whose networks are its own
    if described.platform is PlatformKind.SIMULATED:
        settings[BROKER]["collateral_url"] = f"http://{PCS}:{SIMULATED_PCS_PORT}"
    return "# Written by `sealserve up --target docker`, for its containers.\n" + tomli_w.dumps(settings)
