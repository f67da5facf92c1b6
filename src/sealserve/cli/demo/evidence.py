"""What the replicas' and NGINX's own logs, and the broker's audit log, show of steps 3 to 8, 10 and 11."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sealserve.broker.audit import AuditRow
from sealserve.cli.demo.screen import Screen
from sealserve.cluster.local.processes import Process, wait_until
from sealserve.cluster.logs.launch_log import LaunchStep, read_steps
from sealserve.enclave.launch.simulator import load_simulator

SHORT = 16


class Launches:
    """The starts of replicas, as their launchers logged them.

    Args:
        replicas: Replicas that serve.
    """

    def __init__(self, replicas: Sequence[Process]) -> None:
        self._replicas = replicas
        self._steps: Mapping[str, Mapping[str, LaunchStep]] = {
            process.role: {step.name: step for step in read_steps(Path(process.log))} for process in replicas
        }

    def tell(self, screen: Screen, granted: Sequence[AuditRow], *, policy: str) -> None:
        """Tell steps 3 to 8.

        Args:
            screen: Where.
            granted: The audit rows of the keys that were released.
            policy: The TCB policy's name.
        """
        screen.step(
            3,
            f"The host starts {len(self._replicas)} enclaves",
            *self._lines("measured", "mr_enclave", "mr_signer", "debug"),
            *self._lines("trusted-files", "verified"),
            seconds=self._seconds("measured", "private-memory"),
        )
        screen.step(
            4,
            "Each connects to the broker over RA-TLS",
            *self._lines("broker", "connected"),
            "each with a fresh P-384 key of its own, bound to its quote",
            seconds=self._seconds("private-memory", "quote"),
        )
        screen.step(
            5,
            "The broker verifies processor and enclave",
            *(
                f"quote {short(entry.quote_digest)}: platform {entry.tcb_status}, "
                f"MRENCLAVE {short(entry.mr_enclave)}, {entry.platform}"
                for entry in (row.entry for row in granted)
            ),
            f"our own parser and checks, dcap-qvl, collateral fetched over HTTP, then the policy {policy!r}",
            seconds=self._seconds("quote", "key"),
        )
        screen.step(
            6,
            "and releases the key",
            *(f"audit row {row.seq}, hash {short(row.hash)}: written before the key left" for row in granted),
            seconds=0.0,
        )
        screen.step(
            7,
            "The enclaves open the release, into memory of their own",
            *self._lines("private-memory", "method"),
            *self._private_memory_notes(),
            *self._lines("mounts", "files", "bytes", "key"),
            seconds=self._seconds("key", "mounts"),
        )
        screen.step(
            8,
            "The model servers serve the plaintext model",
            *(f"{process.role}: process {process.pid}, port {process.port}" for process in self._replicas),
        )

    def _private_memory_notes(self) -> list[str]:
        method_of = load_simulator().private_memory_method
        methods = {method_of(steps["private-memory"].evidence["method"]) for steps in self._steps.values()}
        return [method.note for method in sorted(methods) if method.note]

    def _lines(self, name: str, *fields: str) -> list[str]:
        return [
            f"{role}: " + ", ".join(f"{field} {short(steps[name].evidence[field])}" for field in fields)
            for role, steps in self._steps.items()
        ]

    def _seconds(self, start: str, end: str) -> float:
        return max((steps[end].time - steps[start].time).total_seconds() for steps in self._steps.values())


def tell_front(screen: Screen, log: Path, service_name: str, *, connections: int) -> None:
    """Tell steps 10 and 11.

    Args:
        screen: Where.
        log: NGINX's access log.
        service_name: Of the connections to tell of.
        connections: How many must have ended; NGINX logs a connection at its end.
    """
    wait_until(lambda: len(_connections(log, service_name)) >= connections, seconds=10)
    seen = _connections(log, service_name)
    received = sum(int(str(row["bytes_from_client"])) for row in seen)
    sent = sum(int(str(row["bytes_to_client"])) for row in seen)
    screen.step(
        10,
        "NGINX sees the connections",
        f"{len(seen)} for {service_name}: {received / 1e6:.1f} MB in, {sent / 1e6:.2f} MB out, all TLS",
        seconds=0.0,
    )
    shares: dict[str, int] = {}
    for row in seen:
        shares[str(row["replica"])] = shares.get(str(row["replica"]), 0) + 1
    screen.step(
        11,
        "and forwards them, still encrypted",
        *(f"{count} to {replica}" for replica, count in sorted(shares.items())),
        seconds=0.0,
    )


def short(text: str | None) -> str:
    """Return the beginning of a long digest, or the text as it is."""
    return f"{text[:SHORT]}..." if text and len(text) > 2 * SHORT else text or ""


def _connections(log: Path, service_name: str) -> list[dict[str, object]]:
    if not log.is_file():
        return []
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row for row in rows if row["server_name"] == service_name and row["replica"]]
