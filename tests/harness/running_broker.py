"""A broker in a process of its own, as `sealserve broker run` starts it, and enclaves that ask it for a key."""

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.harness.broker_world import strict_release
from tests.harness.model_server import free_port
from tests.harness.reports import REFERENCE, REPORT
from tests.harness.running import command
from tests.harness.workspaces import Site, make_site

from sealserve.broker import admin
from sealserve.broker.keystore import ReleaseKey
from sealserve.enclave.simulated.provisioning import connect, fetch_key
from sealserve.owner import simulation
from sealserve.owner.owner import Owner
from sealserve.pki.authority import CERTIFICATE_FILE, AuthorityKind
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote

PATIENT = 60.0


@dataclass(slots=True)
class RunningBroker:
    """A broker's process."""

    process: subprocess.Popen[str]
    port: int
    lines: "queue.Queue[str | None]" = field(default_factory=queue.Queue)
    seen: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Move the log's lines into a queue, so that the broker never waits for a reader."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line)
        self.lines.put(None)

    def until(self, text: str) -> str:
        """Wait for the next line of the log that contains ``text``, and return it."""
        while (line := self.lines.get(timeout=PATIENT)) is not None:
            self.seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"the broker ended before it logged {text!r}:\n{''.join(self.seen)}")

    def workers(self) -> list[int]:
        """Return the process ids of the workers, in the order of their start."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def hang_up(self) -> None:
        """Send SIGHUP."""
        self.process.send_signal(signal.SIGHUP)


@dataclass(slots=True)
class Owned:
    """An owner's workspace with one release whose enclave `ask` plays."""

    site: Site
    platform: SimulatedPlatform
    made: ReleaseKey
    port: int
    metrics_port: int

    def quote(self, data: bytes) -> bytes:
        """Return the quote of the release's enclave."""
        return quote(self.platform, replace(REPORT, report_data=data))

    def ask(self) -> bytes:
        """Ask for the release's key as an enclave does, and return the key."""
        ca = (self.site.workspace.owner.authorities / AuthorityKind.BROKER / CERTIFICATE_FILE).read_bytes()
        broker = connect([("127.0.0.1", self.port)], timeout=PATIENT)
        with fetch_key(broker, broker_ca=ca, quote_for=self.quote, now=self.site.now, timeout=PATIENT) as key:
            return key.reveal()

    @contextlib.contextmanager
    def broker(
        self, environment: Mapping[str, str] | None = None, *, before: Sequence[str] = (), options: Sequence[str] = ()
    ) -> Iterator[RunningBroker]:
        """Run the broker, wait until it listens, and end it.

        Args:
            environment: Further variables.
            before: A program that runs the broker's command line.
            options: Further options of `broker run`.
        """
        with subprocess.Popen(
            [*before, *command("broker", "run", *options, "-C", self.site.directory)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # without a controlling terminal, as a service
        ) as process:
            running = RunningBroker(process, self.port)
            reader = threading.Thread(target=running.read)
            reader.start()
            try:
                running.until("the broker is listening")
                yield running
            finally:
                process.terminate()
                process.wait(PATIENT)
                reader.join()


@contextlib.contextmanager
def owned(directory: Path, **sections: Any) -> Iterator[Owned]:
    """Yield a workspace whose broker can release a key.

    Args:
        directory: The workspace's folder.
        sections: Settings by section, as for `make_site`.
    """
    port, metrics_port = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        site = make_site(directory, **sections)
        site.certify()
        now = site.now
        vendor = simulation.open_vendor(site.workspace, now=now)
        pcs = stack.enter_context(PcsServer(vendor))
        broker = {"port": port, "metrics_port": metrics_port, "collateral_url": pcs.url, **sections.get("broker", {})}
        site = make_site(directory, source=directory / "half-plus-two", **{**sections, "broker": broker})
        with Owner.open(site.workspace).vault(create=True) as vault:
            made = vault.keystore.create(vault.database, now=now)
            release = strict_release(made, name="half-plus-two", now=now)
            admin.allow(vault.database, release, {"replica-0": REFERENCE}, now=now)
        platform = SimulatedPlatform.create(vendor, directory / "platform", now=now)
        yield Owned(site=site, platform=platform, made=made, port=port, metrics_port=metrics_port)
