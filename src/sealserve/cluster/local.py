"""The local target: vendor, platform, broker, replicas and NGINX as processes of this machine.

All three machines are this one, so it also does the owner's part that replicas on one network need: an enclave for
each replica, since the port is measured (decision 3).
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sealserve.atomic_file import write_file
from sealserve.cluster import ports
from sealserve.cluster.launch_log import read_restarts, read_steps
from sealserve.cluster.log_files import read_logs
from sealserve.cluster.processes import Process, Registry, last_error, start_time, uninterrupted, wait_ready
from sealserve.cluster.target import (
    DRAIN_SECONDS,
    LogLine,
    PartStatus,
    Role,
    State,
    TargetBusyError,
    TargetNotUpError,
    TargetReleaseError,
    TargetUnsupportedError,
    Tell,
    drain_seconds,
    no_log,
    quietly,
)
from sealserve.deployment import Deployment
from sealserve.enclave.measurement import enclave_names, load_enclave, port_of
from sealserve.enclave.simulated.trusted_files import check_trusted_files
from sealserve.errors import SealserveError
from sealserve.host.addresses import usable_address
from sealserve.ingress.nginx import Nginx, worker_user
from sealserve.ingress.nginx_config import NginxConfig, Upstream, render
from sealserve.ingress.nginx_program import find_nginx
from sealserve.owner import enclaves, provisioning, releases
from sealserve.pcs_address import pcs_url
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace

REPLICA: Final = "replica-"
NGINX: Final = "nginx"
RECORD: Final = "local.json"
START_SECONDS: Final = 60
ATTEMPTS: Final = 10
"""Starts of a replica whose server crashes, with growing pauses: four minutes, and ten requests to the broker."""
REPLICA_SECONDS: Final = 300  # importing TensorFlow on a busy machine takes its time


class LocalTarget:
    """A deployment on this machine.

    Args:
        workspace: With all three machines' parts.
        deployment: What it describes.
        tell: Called with a few words before each thing that is done.
    """

    def __init__(self, workspace: Workspace, deployment: Deployment, *, tell: Tell = quietly) -> None:
        if deployment.platform is not PlatformKind.SIMULATED:
            raise TargetUnsupportedError(
                "The local target runs simulated enclaves only, and sealserve.toml says platform = 'sgx'.",
                hint="Set platform = 'simulated' to try it here.",
            )
        self._workspace = workspace
        self._deployment = deployment
        self._tell = tell
        self._registry = Registry(workspace.host.run / RECORD)
        self._release_file = workspace.host.run / "release"

    def up(self, release: Path, replicas: int) -> Sequence[str]:
        """Start what does not run: afterwards ``replicas`` enclaves of ``release`` serve behind NGINX.

        Args:
            release: The release's folder at the owner's.
            replicas: How many.

        Returns:
            Nothing: this target does not roll from one release to the next.

        Raises:
            TargetBusyError: Another release runs.
            SealserveError: A part did not start; what runs goes on running.
        """
        release = self._own_release(release)
        if self.replicas() and (running := self.release()) != release:
            raise TargetBusyError(
                f"The release {running.name} runs, and this is {release.name}.",
                hint="`sealserve down` first: this target does not roll from one release to the next.",
            )
        for process in self._registry.all().values():
            if not process.is_alive():
                process.stop()  # what is left of one that was killed: NGINX's workers hold its port
        self._refuse_taken_ports()
        self.start_vendor()
        self.start_platform()
        self.start_broker()
        shipped = self.prepare(release, replicas)
        started = [self.start_replica(shipped, index) for index in range(replicas)]
        for process in started:
            self.wait_replica(process)
        self.start_front()
        return ()

    def start_vendor(self) -> Process:
        """Start the simulated vendor's service."""
        port = urlsplit(pcs_url(self._deployment)).port
        return self._ensure("pcs", ["simulated", "pcs"], port=port)

    def start_platform(self) -> Process:
        """Start the simulated platform, which makes quotes."""
        return self._ensure("platform", ["simulated", "platform"])

    def start_broker(self) -> Process:
        """Start the owner's broker."""
        broker = self._deployment.broker
        return self._ensure("broker", ["broker", "run"], port=broker.port, logs=self._workspace.owner.logs)

    def prepare(self, release: Path, replicas: int) -> Path:
        """Build an enclave for each replica that has none, allow them at the broker, and ship them with the release.

        Returns:
            The release's folder at the host's.
        """
        now = datetime.now(UTC)
        known = set(enclave_names(release))
        for index in range(replicas):
            if (name := f"{REPLICA}{index}") not in known or not self._usable(release, name):
                self._tell(f"building the enclave {name}")
                spec = enclaves.specify(self._workspace, self._deployment, release, name=name, port=ports.find_free())
                enclaves.build(self._workspace, release, spec, now=now)
        provisioning.allow(self._workspace, self._deployment, release, now=now)
        write_file(self._release_file, release.name.encode())
        return self.ship(release)

    def release(self) -> Path:
        """Return the release that was started last, at the owner's.

        Raises:
            TargetNotUpError: None was.
        """
        try:
            name = read_regular(self._release_file, follow_links=False).decode(errors="replace")
            return self._workspace.owner.releases / Path(name).name
        except InputFileMissingError as error:
            raise TargetNotUpError("No release was started yet.", hint="`sealserve up` starts one.") from error

    def ship(self, release: Path) -> Path:
        """Bring a release to the host's folder; return where it is there."""
        return releases.ship(self._workspace, release)

    def start_replica(self, shipped: Path, index: int) -> Process:
        """Start a replica's enclave, unless it runs; it is not waited for."""
        name = f"{REPLICA}{index}"
        if (running := self._running(name)) is not None:
            return running
        self._tell(f"starting {name}")
        port = port_of(load_enclave(shipped, name).manifest)
        ports.require_free(port, name)
        command = ["enclave", "run", "--name", name, "--release", str(shipped), "--attempts", str(ATTEMPTS)]
        return self._registry.start(name, self._command(command), log=self._log(name), port=port)

    def wait_replica(self, process: Process) -> None:
        """Wait until a replica serves. Its port opens only when the model is available.

        Raises:
            ProcessEndedError: It ended before; the message has the reason that it logged.
        """
        if not _serves(process):
            self._tell(f"{process.role} attests itself, opens the release and loads the model")
            wait_ready(process, lambda: _serves(process), seconds=REPLICA_SECONDS)

    def start_front(self) -> Nginx:
        """Start NGINX in front of the replicas that run, or let it read the new list."""
        nginx = self._nginx(self.replicas())
        if nginx.pid is None:
            self._tell("starting NGINX")
            with uninterrupted():
                nginx.start()
                self._remember(nginx)
        else:
            nginx.reload(nginx.config)
        return nginx

    def _remember(self, nginx: Nginx) -> None:
        if (pid := nginx.pid) is not None:
            port, log = self._deployment.service.port, str(nginx.config.error_log)
            self._registry.add(Process(role=NGINX, pid=pid, started=start_time(pid) or 0, port=port, log=log))

    def scale(self, replicas: int) -> None:
        """Start or stop replicas until there are ``replicas``; those that end finish their requests first.

        Raises:
            TargetNotUpError: Nothing runs.
        """
        running = self.replicas()
        if not running:
            raise TargetNotUpError("There are no replicas to scale.", hint="Start the deployment with `sealserve up`.")
        if replicas > len(running):
            shipped = self.prepare(self.release(), replicas)
            for process in [self.start_replica(shipped, index) for index in range(replicas)]:
                self.wait_replica(process)
            self.start_front()
            return
        leaving = running[replicas:]
        nginx = self._nginx(running[:replicas])
        if nginx.pid is not None:
            nginx.reload(nginx.config)
            age = self._deployment.server.longest_connection_seconds
            self._tell(f"open connections move to the replicas that stay, within {age} s")
            nginx.wait_drained(timeout=drain_seconds(self._deployment))
        for process in leaving:
            self._tell(f"{process.role} finishes its requests")
            process.stop(grace=DRAIN_SECONDS)
            self._registry.remove(process.role)

    def replicas(self) -> list[Process]:
        """Return the replicas that run, in order."""
        found = [process for role, process in self._registry.all().items() if role.startswith(REPLICA)]
        return sorted(
            (process for process in found if process.is_alive()),
            key=lambda process: int(process.role.removeprefix(REPLICA)),
        )

    def status(self) -> list[PartStatus]:
        """Return the state of every part that was started."""
        return [self._status(process) for process in self._registry.all().values()]

    def logs(self, part: str | None, *, last: int, follow: bool) -> Iterator[LogLine]:
        """Yield what the parts logged, each part's last lines first; see `Target.logs`."""
        folders = (self._workspace.owner.logs, self._workspace.host.logs)
        known = {path.stem: path for folder in folders for path in sorted(folder.glob("*.log"))}
        chosen = {name: path for name, path in known.items() if part in {None, name, _part(name)}}
        if not chosen:
            raise no_log(part, list(dict.fromkeys(map(_part, known))))
        lines = read_logs(chosen, last=last, follow=follow)
        return (LogLine(_part(line.part), line.text) for line in lines)

    def down(self) -> list[str]:
        """Stop everything that was started; return the roles. See `stop_all`."""
        return stop_all(self._workspace, tell=self._tell)

    def _refuse_taken_ports(self) -> None:
        service, broker = self._deployment.service, self._deployment.broker
        nginx = self._nginx([])
        render(replace(nginx.config, upstreams=[Upstream("127.0.0.1", 1)]))  # what it cannot take is said now
        if nginx.pid is None:
            ports.require_free(service.port, "NGINX (service.port)", service.listen)
        if self._running("broker") is None:
            ports.require_free(broker.port, "the broker (broker.port)", broker.listen)
        if self._running("pcs") is None:
            ports.require_free(
                urlsplit(pcs_url(self._deployment)).port or 0, "the simulated PCS (broker.collateral_url)"
            )

    def _ensure(self, role: str, arguments: list[str], *, port: int | None = None, logs: Path | None = None) -> Process:
        ready = self._workspace.host.run / f"{role}.ready"  # it writes this file when it answers
        process = self._running(role)
        if process is None:
            self._tell(f"starting {role}")
            ready.unlink(missing_ok=True)
            command = self._command([*arguments, "--ready-file", str(ready)])
            process = self._registry.start(role, command, log=self._log(role, logs), port=port)
        wait_ready(process, ready.exists, seconds=START_SECONDS)
        return process

    def _running(self, role: str) -> Process | None:
        process = self._registry.all().get(role)
        return process if process is not None and process.is_alive() else None

    def _usable(self, release: Path, name: str) -> bool:
        """Whether an enclave that was built before can start: its files are as measured, and its port is free."""
        if self._running(name) is not None:
            return True
        try:
            manifest = load_enclave(release, name).manifest
            check_trusted_files(manifest, release)
        except SealserveError:
            return False  # damaged, or made by another version of sealserve
        return ports.is_free(port_of(manifest))

    def _command(self, arguments: list[str]) -> list[str]:
        # -P: no module of the folder that `up` is called in takes the place of one of ours, or of Python's.
        return [sys.executable, "-P", "-m", "sealserve", *arguments, "--directory", str(self._workspace.directory)]

    def _log(self, role: str, folder: Path | None = None) -> Path:
        return (folder or self._workspace.host.logs) / f"{role}.log"

    def _status(self, process: Process) -> PartStatus:
        state, detail, restarts = State.RUNNING, "", 0
        if process.role.startswith(REPLICA):
            restarts, detail = read_restarts(Path(process.log), process.pid)
        if not process.is_alive():
            state, detail = State.ENDED, last_error(Path(process.log))
        elif process.role == NGINX:
            service = self._deployment.service
            state, detail = State.SERVING, f"{service.name} at {service.endpoint}"
        elif process.role.startswith(REPLICA):
            state = State.SERVING if _serves(process) else _progress(Path(process.log))
        return PartStatus(
            role=process.role, state=state, port=process.port, pid=process.pid, detail=detail, restarts=restarts
        )

    def _nginx(self, replicas: list[Process]) -> Nginx:
        service = self._deployment.service
        program = find_nginx()
        folder = self._workspace.host.run / "nginx"
        folder.mkdir(parents=True, exist_ok=True)
        config = NginxConfig(
            listen=usable_address(service.listen),
            port=service.port,
            service_name=service.name,
            upstreams=[Upstream("127.0.0.1", process.port) for process in replicas if process.port is not None],
            run_folder=folder,
            log_folder=self._workspace.host.logs,
            stream_module=program.stream_module,
            user=worker_user(),
            drain_timeout=drain_seconds(self._deployment),
        )
        return Nginx(program, config)

    def _own_release(self, release: Path) -> Path:
        """Return a release's folder as the workspace names it: only what the owner built there has its key."""
        own = self._workspace.owner.releases / release.name
        if release.resolve() != own.resolve():
            raise TargetReleaseError(
                f"{release} is not one of the workspace's own releases.",
                hint="`sealserve release list` shows those; give a name, or the beginning of an id.",
            )
        return own


def open_target(workspace: Workspace, deployment: Deployment, *, role: Role, tell: Tell) -> LocalTarget:
    """Return the local target; see `TargetModule`."""
    if role is not Role.ALL:
        raise TargetUnsupportedError(
            "On the local target, this machine is the owner's and the host's at once.",
            hint="On a host of its own, run `sealserve enclave run`, or `sealserve up --target docker --role host`.",
        )
    return LocalTarget(workspace, deployment, tell=tell)


def stop_all(workspace: Workspace, *, tell: Tell = quietly) -> list[str]:
    """Stop everything that runs of a workspace, in the order in which requests come; return the roles.

    Only the record of what was started is needed: neither the deployment file nor NGINX.
    """
    started = Registry(workspace.host.run / RECORD).all()
    replicas = sorted(role for role in started if role.startswith(REPLICA))
    order = [NGINX, *replicas, *sorted(set(started) - {NGINX, *replicas, "broker", "platform", "pcs"})]
    return stop_roles(workspace, *order, "broker", "platform", "pcs", tell=tell)


def running(workspace: Workspace) -> list[str]:
    """Return the roles of what runs of a workspace."""
    return [role for role, process in Registry(workspace.host.run / RECORD).all().items() if process.is_alive()]


def stop_roles(workspace: Workspace, *roles: str, tell: Tell = quietly) -> list[str]:
    """Stop those of ``roles`` that were started, in that order; return them."""
    registry = Registry(workspace.host.run / RECORD)
    started = registry.all()
    stopped = [role for role in roles if role in started]
    for role in stopped:
        tell(f"stopping {role}")
        started[role].stop(grace=DRAIN_SECONDS if role.startswith(REPLICA) else 15)
        registry.remove(role)
    if not registry.all():
        for leftover in ("nginx/nginx.pid", "nginx/nginx.lock", "pcs.ready", "platform.ready", "broker.ready"):
            (workspace.host.run / leftover).unlink(missing_ok=True)
    return stopped


def _part(log: str) -> str:
    """Return the part that wrote a log: NGINX writes two, ``nginx-access`` and ``nginx-error``."""
    return NGINX if log.startswith(f"{NGINX}-") else log


def _serves(replica: Process) -> bool:
    return ports.is_listening(replica.port or 0, session=replica.pid)


def _progress(log: Path) -> State:
    steps = {step.name for step in read_steps(log)}
    return State.ATTESTED if "key" in steps and "ended" not in steps else State.STARTING
