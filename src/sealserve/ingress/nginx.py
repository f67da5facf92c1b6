"""NGINX as a process: start it, let it read another configuration, stop it. It is the real one, in the foreground.

Its master is found again by its process id file, so that another command may reload or stop what this one started.
"""

import contextlib
import errno
import grp
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sealserve.atomic_file import write_file
from sealserve.errors import PortTakenError, SealserveError
from sealserve.ingress.codes import IngressCode
from sealserve.ingress.nginx_config import NginxConfig, WorkerUser, render
from sealserve.ingress.nginx_program import NginxProgram, last_message
from sealserve.process_signal import facts_of, kill_group, running, send_signal
from sealserve.regular_file import InputFileMissingError, read_regular

_POLL_SECONDS = 0.02
WORKER_TITLE = "nginx: worker process"
DRAINING_TITLE = f"{WORKER_TITLE} is shutting down"
_ACCOUNTS = ("www-data", "nginx", "nobody")


def worker_user() -> WorkerUser | None:
    """Return an account for NGINX's workers: none unless this process is root, since only root may change accounts."""
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return WorkerUser(account.pw_name, grp.getgrgid(account.pw_gid).gr_name)
    return None


class Nginx:
    """The NGINX of one run folder.

    Args:
        program: From `find_nginx`.
        config: What it is to do.
    """

    def __init__(self, program: NginxProgram, config: NginxConfig) -> None:
        self._program = program
        self._config = config
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> NginxConfig:
        """What it does, or is to do."""
        return self._config

    @property
    def pid(self) -> int | None:
        """The process id of the running master; None if none runs."""
        try:
            pid = int(read_regular(self._config.pid_file, follow_links=False))
        except (InputFileMissingError, ValueError):  # a check leaves an empty file
            return None
        return pid if pid > 1 and self._is_master(pid) else None

    @property
    def is_ready(self) -> bool:
        """Whether the master listens and a worker accepts connections."""
        return (pid := self.pid) is not None and bool(_accepting(pid))

    def prepare(self) -> list[str]:
        """Check everything that can be checked before the start, write the configuration, and return the command.

        The command runs in the foreground. Wait for `is_ready` after starting it.

        Raises:
            InputError: `ingress.invalid-value`: A value of the configuration cannot be used.
            UnavailableError: `ingress.already-running`: It runs.
            UnavailableError: `ingress.address-unusable`: It could not listen.
            PortTakenError: It could not listen.
            UnavailableError: `ingress.config-refused`: NGINX refuses the configuration.
        """
        if (pid := self.pid) is not None:
            raise IngressCode.ALREADY_RUNNING.error(
                f"NGINX for {self._config.run_folder} runs already (process {pid}).", hint="Stop it first."
            )
        for port in self._config.ports:
            _require_free(self._config.listen, port)
        self._install(self._config)
        self._config.pid_file.unlink(missing_ok=True)
        return self._program.command(self._config)

    def start(self, *, timeout: float = 15.0) -> None:
        """Start it, in a session of its own, and wait until it accepts connections.

        Args:
            timeout: Seconds to wait.

        Raises:
            UnavailableError: `ingress.start-failed`: It ended, or did not accept connections within ``timeout``.
            SealserveError: As `prepare`.
        """
        command = self.prepare()
        environment = {name: value for name, value in os.environ.items() if name != "NGINX"}  # it would inherit sockets
        logged = _size(self._config.error_log)
        self._child = child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
        try:
            _wait_until(lambda: self.is_ready or child.poll() is not None, timeout)
            error = None if self.is_ready else self._start_error(child.poll(), logged)
        except BaseException:
            self.stop(grace=0)
            raise
        if error is not None:
            self.stop(grace=0)
            raise error

    def reload(self, config: NginxConfig, *, timeout: float = 15.0) -> None:
        """Let it read another configuration, and wait until new connections are handled by it.

        Connections that exist go on for up to ``drain_timeout``, to the replicas that they had.

        Args:
            config: With the same folders; address, name, replicas and timeouts may differ.
            timeout: Seconds to wait.

        Raises:
            UnavailableError: `ingress.not-running`: There is nothing to reload.
            UnavailableError: `ingress.config-refused`: NGINX refuses it; the old one stays in place.
            UnavailableError: `ingress.reload-failed`: It was not taken within ``timeout``.
        """
        if config.run_folder != self._config.run_folder:
            raise ValueError("a reload cannot move the run folder")
        if (pid := self.pid) is None:
            raise IngressCode.NOT_RUNNING.error(f"No NGINX runs for {self._config.run_folder}.", hint="Start it.")
        for port in config.ports:
            if config.listen != self._config.listen or port not in self._config.ports:
                _require_free(config.listen, port)
        self._install(config)
        logged = _size(config.error_log)
        before = _accepting(pid)
        send_signal(pid, signal.SIGHUP, if_still=lambda: self._is_master(pid))
        if not _wait_until(lambda: bool(now := _accepting(pid)) and not now & before, timeout):
            reason = _log_tail(config.error_log, logged)
            raise IngressCode.RELOAD_FAILED.error(
                f"NGINX did not take its new configuration within {timeout:.3g} s: {reason}",
                hint=f"See {config.error_log}.",
            )
        self._config = config

    def wait_drained(self, *, timeout: float) -> bool:
        """Wait until no connection is left that was there before the last reload; return whether that came about.

        Args:
            timeout: Seconds to wait. Connections end by themselves at their age, which the replicas have set.
        """
        pid = self.pid
        return pid is None or _wait_until(lambda: not _workers(pid, DRAINING_TITLE), timeout)

    def stop(self, *, grace: float = 5.0) -> None:
        """Stop it: first gracefully, after ``grace`` seconds at once. Nothing of it is left; its logs are.

        Args:
            grace: Seconds that connections may take to end. An open gRPC channel does not end by itself.
        """
        pid = self._child.pid if self._child is not None and self._child.poll() is None else self.pid
        if pid is not None:
            for number, seconds in ((signal.SIGQUIT, grace), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
                if number == signal.SIGQUIT and grace <= 0:
                    continue
                self._signal(pid, number)
                if _wait_until(lambda: not self._alive(pid), seconds):
                    break
        for leftover in (self._config.pid_file, self._config.run_folder / "nginx.lock"):
            leftover.unlink(missing_ok=True)
        self._child = None

    def _install(self, config: NginxConfig) -> None:
        """Write the configuration beside its place, let NGINX check it, and only then put it in place."""
        candidate = config.config_file.with_name("nginx.conf.new")
        try:
            write_file(candidate, render(config).encode())
            self._program.check(config, config_file=candidate)
            candidate.replace(config.config_file)
        finally:
            candidate.unlink(missing_ok=True)

    def _start_error(self, status: int | None, logged: int) -> SealserveError:
        reason = _log_tail(self._config.error_log, logged)
        if "Address already in use" in reason:  # somebody was quicker than we
            ports = self._config.ports
            return _port_taken(self._config.listen, next((p for p in ports if f":{p} failed" in reason), ports[0]))
        what = "accepts no connections" if status is None else f"ended with status {status}"
        return IngressCode.START_FAILED.error(f"NGINX {what}: {reason}", hint=f"See {self._config.error_log}.")

    def _is_master(self, pid: int) -> bool:
        # The id may belong to another process by now. The title of NGINX's master has the configuration's path.
        return str(self._config.config_file) in _title(pid)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        still = partial(self._alive if self._child is not None else self._is_master, pid)
        leads = (master := facts_of(pid)) is not None and master.group == pid
        if send_signal(pid, number, if_still=still) and number == signal.SIGKILL and leads:
            kill_group(pid)  # its workers would outlive it; as long as they run, the group is theirs

    def _alive(self, pid: int) -> bool:
        if self._child is not None and self._child.pid == pid:
            return self._child.poll() is None
        return bool(_title(pid))


def _title(pid: int) -> str:
    """Return a process's command line; "" if there is no such process, or only its remains."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _accepting(master: int) -> set[int]:
    """Return the process ids of a master's workers that accept connections."""
    return _workers(master, WORKER_TITLE)


def _workers(master: int, title: str) -> set[int]:
    return {pid for pid, found in running() if found.parent == master and _title(pid) == title}


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _require_free(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as NGINX does
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _port_taken(address, port) from error
            raise IngressCode.ADDRESS_UNUSABLE.error(
                f"NGINX cannot listen on port {port} at {address}: {error.strerror}.",
                hint="Ports below 1024 are root's; the address must be one of this machine's.",
            ) from error


def _port_taken(address: str, port: int) -> PortTakenError:
    return PortTakenError(
        f"Port {port} at {address}, for NGINX, is taken by another program.",
        hint=f"Stop it (`ss -ltnp sport = :{port}` names it), or set another one in sealserve.toml: service.port for "
        "gRPC, service.rest_port for REST.",
    )


def _size(log: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return log.stat().st_size
    return 0


def _log_tail(log: Path, start: int) -> str:
    """Return the last message of weight that was logged after byte ``start``."""
    with contextlib.suppress(FileNotFoundError):
        return last_message(log.read_bytes()[start:].decode(errors="replace"))
    return "it left no log."
