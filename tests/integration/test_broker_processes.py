"""A broker with several processes, as `sealserve broker run --processes` starts it."""

import contextlib
import os
import re
import resource
import signal
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.running import run
from tests.harness.running_broker import PATIENT, Owned, RunningBroker, owned

from sealserve.broker import admin
from sealserve.broker.audit_entry import Decision
from sealserve.cluster.local.processes import wait_until
from sealserve.enclave.codes import EnclaveCode
from sealserve.errors import SealserveError
from sealserve.owner.owner import Owner
from sealserve.process_signal import facts_of

pytestmark = [
    pytest.mark.integration,
    # Python's `ssl` leaves a socket open whose peer is gone before the handshake.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

TWO = ("--processes", "2")
CLIENTS, AT_ONCE = 100, 8


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owned]:
    with owned(tmp_path / "site") as owner:
        yield owner


def get(owner: Owned, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{owner.metrics_port}{path}", timeout=PATIENT) as answer:
        text: str = answer.read().decode()
    return text


def metric(owner: Owned, name: str) -> float:
    """Return the sum of the samples whose name and labels begin with ``name``."""
    lines = [line for line in get(owner, "/metrics").splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in lines)


def released(owner: Owned) -> int:
    """Verify the audit log, and return the number of released keys."""
    with Owner.open(owner.site.workspace).database() as database:
        admin.verify_log(database)
        return sum(row.entry.decision is Decision.RELEASED for row in admin.log(database))


def at_once(owner: Owned, count: int) -> None:
    with ThreadPoolExecutor(AT_ONCE) as enclaves:
        for key in enclaves.map(lambda _: owner.ask(), range(count)):
            assert key == owner.made.key.reveal()


def eventually(condition: Callable[[], object]) -> None:
    assert wait_until(lambda: bool(condition()), seconds=PATIENT)


def test_both_processes_release_keys_and_the_metrics_are_their_sum(owner: Owned) -> None:
    with owner.broker(options=TWO) as broker:
        workers = broker.workers()
        assert len(workers) == 2
        before = [cpu_ticks(worker) for worker in workers]
        at_once(owner, 40)
        used = [cpu_ticks(worker) - ticks for worker, ticks in zip(workers, before, strict=True)]
        assert all(used)
        assert metric(owner, 'sealserve_broker_decisions_total{code="",outcome="released"}') == 40
        assert metric(owner, 'sealserve_broker_stage_duration_seconds_count{stage="whole"}') == 40
        assert metric(owner, "sealserve_broker_processes") == 2
        assert metric(owner, "sealserve_broker_process_restarts_total") == 0
        assert get(owner, "/healthz") == get(owner, "/readyz") == "ok\n"
    assert released(owner) == 40


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_process_that_is_killed_costs_only_the_requests_in_flight(owner: Owned) -> None:
    counted, lock, killed = Counter[str](), threading.Lock(), threading.Event()
    with owner.broker(options=TWO) as broker:
        victim, other = broker.workers()

        def enclave(_: int) -> None:
            with lock:
                begun_after = killed.is_set()
            try:
                assert owner.ask() == owner.made.key.reveal()
                outcome = "got the key"
            except (SealserveError, OSError) as error:
                if begun_after or not getattr(error, "code", "provisioning.").startswith("provisioning."):
                    raise  # it was not in flight
                outcome = "in flight"
            with lock:
                counted[outcome] += 1
                if counted["got the key"] == CLIENTS // 3 and not killed.is_set():
                    os.kill(victim, signal.SIGKILL)
                    # The kernel closes the sockets of a killed process a little later. A connection that is handed over
                    # before is in flight.
                    broker.until("process 0 of the broker is started again in 0 s: Process 0 of the broker ended")
                    killed.set()

        with ThreadPoolExecutor(AT_ONCE) as enclaves:
            list(enclaves.map(enclave, range(CLIENTS)))
        assert killed.is_set()
        assert counted["in flight"] < AT_ONCE
        broker.until("process 0 of the broker serves again")
        # The counters continue, although a process with a part of them is gone.
        assert metric(owner, "sealserve_broker_process_restarts_total") == 1
        assert set(broker.workers()) > {other}
        at_once(owner, 16)
        assert metric(owner, "sealserve_broker_processes") == 2
    assert released(owner) >= counted["got the key"] + 16  # a row without a key is possible, a key without a row is not


def test_a_silent_enclave_survives_the_end_of_a_process(owner: Owned) -> None:
    with owner.broker(options=TWO) as broker:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        peers = [socket.create_connection(("127.0.0.1", owner.port), timeout=PATIENT) for _ in range(8)]
        eventually(lambda: metric(owner, 'sealserve_broker_connections{state="silent"}') == 8)
        for worker in broker.workers():
            os.kill(worker, signal.SIGKILL)
        for _ in range(2):
            broker.until("serves again")
        for peer in peers:
            with peer, context.wrap_socket(peer) as secured:
                assert secured.getpeercert(binary_form=True)


def test_no_process_survives_its_supervisor(owner: Owned) -> None:
    with owner.broker(options=TWO) as broker:
        workers = broker.workers()
        broker.process.kill()
        broker.process.wait(PATIENT)
        eventually(lambda: not any(map(facts_of, workers)))
        with pytest.raises((OSError, SealserveError)):
            owner.ask()
    with owner.broker(options=TWO):
        assert owner.ask() == owner.made.key.reveal()


def test_sigterm_drains_all_processes(owner: Owned) -> None:
    with owner.broker(options=TWO) as broker, ThreadPoolExecutor(AT_ONCE) as enclaves:
        workers = broker.workers()
        asked = [enclaves.submit(owner.ask) for _ in range(3 * AT_ONCE)]
        asked[0].result()
        broker.process.terminate()
        assert broker.process.wait(PATIENT) == 0
        got = 0
        for one in asked:
            with contextlib.suppress(SealserveError, OSError):
                got += one.result() == owner.made.key.reveal()
        assert not any(map(facts_of, workers))
    assert released(owner) >= got >= 1
    log = "".join(broker.seen) + "".join(line or "" for line in iter_queue(broker))
    assert len(re.findall(r"broker process \d has stopped", log)) == 2
    assert "killed" not in log


def iter_queue(broker: RunningBroker) -> Iterator[str | None]:
    while not broker.lines.empty():
        yield broker.lines.get()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_further_signals_do_not_interrupt_the_clean_up(owner: Owned, processes: str) -> None:
    with owner.broker(options=("--processes", processes)) as broker:
        while broker.process.poll() is None:
            broker.process.terminate()
            time.sleep(0.01)
        broker.until("the broker has stopped")
        # A signal during the end of the interpreter has its default action.
        assert broker.process.returncode in {0, -signal.SIGTERM}


def test_each_process_loads_a_new_certificate_and_a_new_master_key(owner: Owned) -> None:
    with owner.broker(options=TWO) as broker:
        before = presented(owner)
        assert len(before) == 1
        assert run("certs", "renew", "-C", owner.site.directory).status == 0
        for _ in range(2):
            broker.until("reloaded the certificate")
        after = presented(owner)
        assert len(after) == 1
        assert after != before
        assert run("broker", "rotate-master", "-C", owner.site.directory).status == 0
        at_once(owner, 16)
        broker.hang_up()
        for _ in range(2):
            broker.until("reloaded the token signing key")
        at_once(owner, 16)
        assert metric(owner, "sealserve_broker_last_reload_successful") == 4


def presented(owner: Owned) -> set[str]:
    """Return the different certificates of the processes. Consecutive connections go to them in turn."""
    return {ssl.get_server_certificate(("127.0.0.1", owner.port), timeout=PATIENT) for _ in range(8)}


def test_a_revocation_holds_at_once_in_each_process(owner: Owned) -> None:
    with owner.broker(options=TWO):
        at_once(owner, 16)
        assert run("broker", "revoke", "half-plus-two", "--yes", "-C", owner.site.directory).status == 0
        for _ in range(8):
            with raises(EnclaveCode.PROVISIONING_REFUSED):
                owner.ask()
        assert metric(owner, 'sealserve_broker_decisions_total{code="policy.release-revoked",outcome="refused"}') == 8


def test_commands_can_write_while_both_processes_write(owner: Owned) -> None:
    stop = threading.Event()

    def ask_until_stopped() -> int:
        count = 0
        while not stop.is_set():
            assert owner.ask() == owner.made.key.reveal()
            count += 1
        return count

    with owner.broker(options=TWO) as broker, ThreadPoolExecutor(AT_ONCE) as enclaves:
        asked = [enclaves.submit(ask_until_stopped) for _ in range(AT_ONCE)]
        try:
            for _ in range(3):
                assert (
                    run("broker", "drain", "half-plus-two", "--minutes", "60", "-C", owner.site.directory).status == 0
                )
        finally:
            stop.set()
        count = sum(one.result() for one in asked)
    assert released(owner) == count
    assert not [line for line in broker.seen if "locked" in line]


def test_a_process_that_cannot_start_ends_the_broker_with_its_error(owner: Owned) -> None:
    owner.site.workspace.owner.master_key.write_bytes(b"short")
    ended = run("broker", "run", *TWO, "-C", owner.site.directory)
    assert ended.status == 2
    assert "keystore.master-key-length" in ended.err


def test_a_process_that_ends_again_and_again_ends_the_broker(owner: Owned) -> None:
    with owner.broker(options=TWO) as broker:
        owner.site.workspace.owner.master_key.write_bytes(b"short")
        os.kill(broker.workers()[1], signal.SIGKILL)
        assert broker.process.wait(PATIENT) == 2
        broker.until("error[keystore.master-key-length]")


def test_each_process_is_hardened(owner: Owned) -> None:
    with owner.broker(options=TWO) as broker:
        for pid in (broker.process.pid, *broker.workers()):
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
            if os.geteuid() != 0:  # the files of a process that is not dumpable belong to root
                assert Path(f"/proc/{pid}/mem").stat().st_uid == 0


def test_a_full_disk_refuses_keys_in_each_process(owner: Owned) -> None:
    # No file may grow.
    limit = ("/bin/sh", "-c", 'trap "" XFSZ; exec "$0" "$@"')
    with owner.broker(options=TWO, before=limit) as broker:
        at_once(owner, 8)
        count = metric(owner, 'sealserve_broker_decisions_total{code="",outcome="released"}')
        for worker in broker.workers():
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        for _ in range(4):
            with pytest.raises(SealserveError):
                owner.ask()
        for worker in broker.workers():
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        at_once(owner, 8)
    assert released(owner) == count + 8
