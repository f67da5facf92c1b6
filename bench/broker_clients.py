"""Client processes that request keys from a broker with Gramine's protocol, as fast as the broker answers.

Each client thread has its own RA-TLS certificate, as one enclave has. The certificates are made before the measurement,
because quoting takes place on another machine in production.
"""

import contextlib
import multiprocessing
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from sealserve.attestation.ra_tls import make_certificate
from sealserve.attestation.secret_provisioning import REQUEST, ProvisioningClient
from sealserve.enclave.simulated.provisioning import _context
from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote

REPORT = EnclaveReport(
    attributes=Attributes(flags=0x5, xfrm=0xE7),
    mr_enclave=MrEnclave(b"\x01" * 32),
    mr_signer=MrSigner(b"\x02" * 32),
    isv_prod_id=1,
    isv_svn=2,
    report_data=bytes(64),
)
_PROCESSES = 4
_PATIENCE = 120.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A broker: its port, its CA certificate (PEM), and the folder of the simulated platform that quotes."""

    port: int
    ca: bytes
    platform: Path
    secret_size: int | None = 16


@dataclass
class Load:
    """The result of a measurement.

    Args:
        wall: The duration in seconds.
        latencies: The seconds from connecting to the key, of each released key.
        client_cpu: The processor time of all client processes, in seconds.
        failures: The number of requests that got no key.
    """

    wall: float = 0.0
    latencies: list[float] = field(default_factory=list)
    client_cpu: float = 0.0
    failures: int = 0


def context(platform: Path, ca: bytes) -> ssl.SSLContext:
    """Return the TLS context of one enclave, with a new key and quote."""
    made = SimulatedPlatform.load(platform)
    now = datetime.now(UTC)
    return _context(ca, make_certificate(lambda data: quote(made, report_with(data)), now))


def fetch(tls: ssl.SSLContext, port: int, *, secret_size: int | None = 16) -> bool:
    """Request a key as Gramine's client does. Return whether the broker released it."""
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with tls.wrap_socket(connection, server_hostname="127.0.0.1") as session:
                session.sendall(REQUEST)
                client = ProvisioningClient(secret_size=secret_size)
                while data := session.recv(16384):
                    if client.receive(data):
                        client.secret().wipe()
                        return True
        except OSError:
            pass
    return False


def run(target: Target, *, concurrency: int, seconds: float) -> Load:
    """Keep ``concurrency`` requests in progress for some seconds, from several processes."""
    spawn = multiprocessing.get_context("spawn")
    processes = min(concurrency, _PROCESSES)
    shares = [concurrency // processes + (number < concurrency % processes) for number in range(processes)]
    results: Queue[Load] = spawn.Queue()
    barrier = spawn.Barrier(processes)
    children = [spawn.Process(target=_client, args=(target, share, seconds, barrier, results)) for share in shares]
    for child in children:
        child.start()
    total = Load()
    for _ in children:
        part = results.get(timeout=_PATIENCE + seconds)
        total.wall = max(total.wall, part.wall)
        total.latencies += part.latencies
        total.client_cpu += part.client_cpu
        total.failures += part.failures
    for child in children:
        child.join()
    return total


@contextlib.contextmanager
def idle_peers(port: int, *, silent: int, slow: int) -> Iterator[None]:
    """Hold connections that send nothing, and connections that send one byte of a handshake and stop.

    Each slow peer has a separate address, and connects again when the broker disconnects it.
    """
    stop = threading.Event()
    sockets = [_connect(port, f"127.1.{number // 250}.{number % 250 + 1}") for number in range(silent)]
    threads = [threading.Thread(target=_dawdle, args=(port, number, stop)) for number in range(slow)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for found in sockets:
            found.close()


def _dawdle(port: int, number: int, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError), _connect(port, f"127.2.0.{number % 250 + 1}") as connection:
            connection.sendall(b"\x16")
            connection.settimeout(0.5)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        break
        stop.wait(0.5)


def _connect(port: int, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


def _client(target: Target, share: int, seconds: float, barrier: Barrier, results: "Queue[Load]") -> None:
    contexts = [context(target.platform, target.ca) for _ in range(share)]
    load = Load()
    lock = threading.Lock()
    barrier.wait()
    began = _cpu()
    started = time.perf_counter()

    def loop(tls: ssl.SSLContext) -> None:
        while (at := time.perf_counter()) - started < seconds:
            released = fetch(tls, target.port, secret_size=target.secret_size)
            with lock:
                if released:
                    load.latencies.append(time.perf_counter() - at)
                else:
                    load.failures += 1

    threads = [threading.Thread(target=loop, args=(tls,)) for tls in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.wall = time.perf_counter() - started
    load.client_cpu = _cpu() - began
    results.put(load)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def report_with(data: bytes) -> EnclaveReport:
    """Return the report of the clients' enclave with this report data."""
    return replace(REPORT, report_data=data)
