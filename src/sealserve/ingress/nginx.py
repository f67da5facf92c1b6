"""Starts, reloads and stops NGINX, which runs in the foreground.

The master process is found by its process ID file, so that a different command can reload or stop it.
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
    """Return an account for NGINX's workers. None unless this process is root: only root may change accounts."""
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
        program: The program, from `find_nginx`.
        config: Its configuration.
    """

    def __init__(self, program: NginxProgram, config: NginxConfig) -> None:
        self._program = program
        self._config = config
        self._child: subprocess.Popen[bytes] | None = None
        self._logged = 0

    @property
    def command(self) -> list[str]:
        """The command line that runs NGINX in the foreground."""
        return self._program.command(self._config)

    @property
    def config(self) -> NginxConfig:
        """The configuration that NGINX runs with, or will be started with."""
        return self._config

    @property
    def pid(self) -> int | None:
        """The process ID of the running master, or None if it does not run."""
        try:
            pid = int(read_regular(self._config.pid_file, follow_links=False))
        except (InputFileMissingError, ValueError):  # `nginx -t` leaves an empty file
            return None
        return pid if pid > 1 and self._is_master(pid) else None

    @property
    def is_ready(self) -> bool:
        """Whether the master listens and a worker accepts connections."""
        return (pid := self.pid) is not None and bool(_accepting(pid))

    def prepare(self) -> list[str]:
        """Check the configuration and the ports, write the configuration, and return the command.

        The command runs in the foreground. After starting it, wait for `is_ready`.

        Raises:
            InputError: `ingress.invalid-value` if a value of the configuration is invalid.
            UnavailableError: `ingress.already-running` if NGINX already runs.
            UnavailableError: `ingress.address-unusable` if NGINX could not listen on the address.
            PortTakenError: A different program uses a port.
            UnavailableError: `ingress.config-refused` if NGINX rejects the configuration.
        """
        if (pid := self.pid) is not None:
            raise IngressCode.ALREADY_RUNNING.error(
                f"NGINX for {self._config.run_folder} is already running (process {pid}).",
                hint="Stop it with `sealserve down`.",
            )
        for port in self._config.ports:
            _require_free(self._config.listen, port)
        self._install(self._config)
        self._config.pid_file.unlink(missing_ok=True)
        self._logged = _size(self._config.error_log)
        return self.command

    def wait_started(self, is_alive: Callable[[], bool], *, timeout: float = 15.0) -> None:
        """Wait until NGINX accepts connections, after the command of `prepare` was started.

        Args:
            is_alive: Returns whether the process still runs.
            timeout: Seconds to wait.

        Raises:
            UnavailableError: `ingress.start-failed` if it ended, or did not accept connections within ``timeout``.
            PortTakenError: A different program has taken the port first.
        """
        _wait_until(lambda: self.is_ready or not is_alive(), timeout)
        if not self.is_ready:
            raise self._start_error("does not accept connections" if is_alive() else "ended")

    def start(self, *, timeout: float = 15.0) -> None:
        """Start NGINX in its own session, and wait until it accepts connections.

        Args:
            timeout: Seconds to wait.

        Raises:
            UnavailableError: `ingress.start-failed` if it ended, or did not accept connections within ``timeout``.
            SealserveError: As for `prepare`.
        """
        command = self.prepare()
        environment = {name: value for name, value in os.environ.items() if name != "NGINX"}  # would pass sockets to it
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
            status = child.poll()
            what = "does not accept connections" if status is None else f"ended with exit status {status}"
            error = None if self.is_ready else self._start_error(what)
        except BaseException:
            self.stop(grace=0)
            raise
        if error is not None:
            self.stop(grace=0)
            raise error

    def reload(self, config: NginxConfig, *, timeout: float = 15.0) -> None:
        """Make NGINX load a new configuration, and wait until it handles new connections with it.

        Existing connections to their replicas continue for up to ``drain_timeout``.

        Args:
            config: The new configuration, with the same folders. Address, name, replicas and timeouts may differ.
            timeout: Seconds to wait.

        Raises:
            UnavailableError: `ingress.not-running` if NGINX does not run.
            UnavailableError: `ingress.config-refused` if NGINX rejects it. The previous configuration stays active.
            UnavailableError: `ingress.reload-failed` if NGINX did not load it within ``timeout``.
        """
        if config.run_folder != self._config.run_folder:
            raise ValueError("a reload cannot move the run folder")
        if (pid := self.pid) is None:
            raise IngressCode.NOT_RUNNING.error(
                f"NGINX for {self._config.run_folder} is not running.", hint="Start it with `sealserve up`."
            )
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
                f"NGINX did not load its new configuration within {timeout:.3g} s: {reason}",
                hint=f"Read its log: {config.error_log}.",
            )
        self._config = config

    def wait_drained(self, *, timeout: float) -> bool:
        """Wait until no connection from before the last reload is left. Return whether that happened in time.

        Args:
            timeout: Seconds to wait. The replicas end each connection at a maximum age.
        """
        pid = self.pid
        return pid is None or _wait_until(lambda: not _workers(pid, DRAINING_TITLE), timeout)

    def stop(self, *, grace: float = 5.0) -> None:
        """Stop NGINX gracefully, and kill it after ``grace`` seconds. Only its logs remain.

        Args:
            grace: Seconds in which connections may end. An open gRPC channel does not end by itself.
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
        """Write the configuration to a temporary file, let NGINX check it, and only then replace the current one."""
        candidate = config.config_file.with_name("nginx.conf.new")
        try:
            write_file(candidate, render(config).encode())
            self._program.check(config, config_file=candidate)
            candidate.replace(config.config_file)
        finally:
            candidate.unlink(missing_ok=True)

    def _start_error(self, what: str) -> SealserveError:
        reason = _log_tail(self._config.error_log, self._logged)
        if "Address already in use" in reason:  # a different program has taken the port first
            ports = self._config.ports
            return _port_taken(self._config.listen, next((p for p in ports if f":{p} failed" in reason), ports[0]))
        return IngressCode.START_FAILED.error(
            f"NGINX {what}: {reason}", hint=f"Read its log: {self._config.error_log}."
        )

    def _is_master(self, pid: int) -> bool:
        # The ID may belong to a different process by now. The master's title contains the configuration's path.
        return str(self._config.config_file) in _title(pid)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        still = partial(self._alive if self._child is not None else self._is_master, pid)
        leads = (master := facts_of(pid)) is not None and master.group == pid
        if send_signal(pid, number, if_still=still) and number == signal.SIGKILL and leads:
            kill_group(pid)  # its workers would outlive it; while they run, the group ID cannot be reused

    def _alive(self, pid: int) -> bool:
        if self._child is not None and self._child.pid == pid:
            return self._child.poll() is None
        return bool(_title(pid))


def _title(pid: int) -> str:
    """Return a process's command line, or "" if the process does not exist or is a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _accepting(master: int) -> set[int]:
    """Return the process IDs of a master's workers that accept connections."""
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
                hint="Use an address of this machine. Only root may use ports below 1024.",
            ) from error


def _port_taken(address: str, port: int) -> PortTakenError:
    return PortTakenError(
        f"Port {port} at {address}, for NGINX, is in use by another program.",
        hint=f"Stop that program (`ss -ltnp sport = :{port}` names it), or set a different port in sealserve.toml: "
        "service.port for gRPC, service.rest_port for REST.",
    )


def _size(log: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return log.stat().st_size
    return 0


def _log_tail(log: Path, start: int) -> str:
    """Return the last important message that was logged after byte ``start``."""
    with contextlib.suppress(FileNotFoundError):
        return last_message(log.read_bytes()[start:].decode(errors="replace"))
    return "it has no log."
