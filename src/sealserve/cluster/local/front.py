"""The NGINX of a local deployment: a process of this machine, in front of the replicas that get new connections."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sealserve.addresses import usable_address
from sealserve.cluster import ports
from sealserve.cluster.local.owner_services import registry, running_process
from sealserve.cluster.local.part_commands import nginx_folder
from sealserve.cluster.local.processes import Process
from sealserve.cluster.target import NGINX, Tell, drain_seconds
from sealserve.deployment import Deployment
from sealserve.ingress.nginx import Nginx, worker_user
from sealserve.ingress.nginx_config import NginxConfig, RestRoute, Upstream, render
from sealserve.ingress.nginx_program import find_nginx
from sealserve.workspace import Workspace


class LocalFront:
    """NGINX in front of a workspace's replicas.

    Args:
        workspace: The workspace of the deployment.
        deployment: The deployment that the workspace describes.
        tell: Called with a short progress text before each step.
    """

    def __init__(self, workspace: Workspace, deployment: Deployment, *, tell: Tell) -> None:
        self._workspace = workspace
        self._deployment = deployment
        self._registry = registry(workspace)
        self._tell = tell

    def start(self, replicas: Sequence[Process]) -> Nginx:
        """Start NGINX, or make the running NGINX load this list of replicas."""
        nginx = self.nginx(replicas)
        if nginx.pid is None:
            self._tell("starting NGINX")
            nginx.config.run_folder.mkdir(parents=True, exist_ok=True)
            self._start(nginx)
        else:
            nginx.reload(nginx.config)
        if (process := running_process(self._workspace, NGINX)) is not None:
            self._registry.adopt(process, nginx.command)
        return nginx

    def require_free_ports(self, *, rest: bool) -> None:
        """Check that NGINX's settings are valid, and that no other program uses its ports.

        Args:
            rest: Whether the replicas have REST.

        Raises:
            PortTakenError: A different program uses a port.
        """
        service = self._deployment.service
        nginx = self.nginx([])
        render(replace(nginx.config, upstreams=[Upstream("127.0.0.1", 1)]))  # reports invalid settings early
        if nginx.pid is None:
            ports.require_free(service.port, "NGINX (service.port)", service.listen)
        # A running NGINX without REST would start to listen on the REST port.
        if rest and not _listens(nginx, service.rest_port):
            ports.require_free(service.rest_port, "NGINX (service.rest_port)", service.listen)

    def nginx(self, replicas: Sequence[Process]) -> Nginx:
        """Return the NGINX that would pass connections to these replicas. Nothing is started or changed."""
        service = self._deployment.service
        program = find_nginx()
        folder = nginx_folder(self._workspace)
        config = NginxConfig(
            listen=usable_address(service.listen),
            port=service.port,
            service_name=service.name,
            upstreams=[Upstream("127.0.0.1", process.port) for process in replicas if process.port is not None],
            rest=RestRoute(
                port=service.rest_port,
                upstreams=[Upstream("127.0.0.1", process.rest_port) for process in replicas if process.rest_port],
            ),
            run_folder=folder,
            log_folder=self._workspace.host.logs,
            stream_module=program.stream_module,
            user=worker_user(),
            drain_timeout=drain_seconds(self._deployment, (process.connection_age for process in replicas)),
        )
        return Nginx(program, config)

    def _start(self, nginx: Nginx) -> None:
        port, log = self._deployment.service.port, nginx.config.error_log
        process = self._registry.start(NGINX, nginx.prepare(), log=log, port=port, directory=Path("/"))
        try:
            nginx.wait_started(process.is_alive)
        except BaseException:
            process.stop()
            self._registry.remove(NGINX)
            raise


def _listens(nginx: Nginx, port: int) -> bool:
    return (pid := nginx.pid) is not None and ports.is_listening(port, session=pid)
