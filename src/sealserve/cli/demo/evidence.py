"""Evidence for steps 3 to 8, 10 and 11: the logs of replicas and NGINX, and the broker's audit log."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sealserve.broker.audit import AuditRow
from sealserve.cli.demo.screen import Screen
from sealserve.cluster.local.processes import Process, wait_until
from sealserve.cluster.logs.launch_log import LaunchStep, read_steps
from sealserve.enclave.launch.simulator import load_simulator

SHORT = 16
_DIGEST: Final = re.compile(r"[0-9a-f]{64,}")


class Launches:
    """The start of each replica, read from the log of its launcher.

    Args:
        replicas: The processes of replicas that serve.
    """

    def __init__(self, replicas: Sequence[Process]) -> None:
        self._replicas = replicas
        self._steps: Mapping[str, Mapping[str, LaunchStep]] = {
            # An enclave gets a second quote later, for users. The first one is for the broker.
            process.role: {step.name: step for step in reversed(list(read_steps(Path(process.log))))}
            for process in replicas
        }

    def tell(self, screen: Screen, granted: Sequence[AuditRow], *, policy: str) -> None:
        """Show steps 3 to 8.

        Args:
            screen: Shows the steps.
            granted: The audit rows of the keys that the broker released.
            policy: Name of the TCB policy that the broker applied.
        """
        screen.step(
            3,
            f"The host starts {len(self._replicas)} enclaves",
            "An enclave is a program in memory that the host cannot read. The processor measures it at its start: "
            "MRENCLAVE is the digest of its code and settings, and MRSIGNER identifies the owner's signing key. The "
            "enclave then compares each trusted file with the SHA-256 in its measured manifest, so the host cannot "
            "replace these files. In this simulation, the trusted files include Python's interpreter and sealserve's "
            "own modules, but not Python's libraries and TensorFlow. On SGX, they include these files too.",
            *self._lines(
                ("measured", "MRENCLAVE {mr_enclave}, MRSIGNER {mr_signer}, debug mode {debug}"),
                ("trusted-files", "{verified} trusted files match the measured manifest"),
            ),
            ("note", "MRENCLAVE differs between replicas because the port is one of the measured settings"),
            seconds=self._seconds("measured", "private-memory"),
        )
        screen.step(
            4,
            "Each enclave creates its keys, and connects to the owner's broker",
            "The enclave creates its TLS key and its identity key in its memory. They never leave it. The broker "
            "sends a random nonce over TLS 1.3. The enclave answers with a quote: a statement, signed by the "
            "processor, about the program that runs in the enclave. The quote covers the nonce, this TLS session and "
            "the public keys, so the host can neither replay it nor use it for another connection.",
            *self._lines(("broker", "connected to {connected}")),
            ("keys", "P-256 for TLS, and Ed25519 for nonces and receipts; new for each start"),
            seconds=self._seconds("private-memory", "quote"),
        )
        screen.step(
            5,
            "The broker verifies the processor and the enclave",
            "The broker checks the quote's signatures up to the vendor's root certificate, and the processor's "
            "security updates (TCB status). It then compares MRENCLAVE with the values that the owner registered. An "
            "enclave that the host changed, and a processor with known vulnerabilities, fail here.",
            *(
                ("quote", (f"{short(entry.quote_digest)}: MRENCLAVE {short(entry.mr_enclave)}, "
                          f"TCB status {entry.tcb_status}"))
                for entry in (row.entry for row in granted)
            ),
            ("platform", ", ".join(sorted({str(row.entry.platform) for row in granted}))),
            ("verified by", "sealserve's own parser and checks, then the library dcap-qvl"),
            ("collateral", "fetched over HTTP"),
            ("TCB policy", policy),
            seconds=self._seconds("quote", "mounts"),
        )  # fmt: skip
        screen.step(
            6,
            "The broker releases the key, and issues a certificate",
            "The release's key leaves the owner's machine only now, through the TLS session into the verified enclave. "
            "The broker also issues a certificate for the enclave's TLS key. It writes each decision to its audit log "
            "before it sends the key.",
            *(("audit log", f"row {row.seq}, hash {short(row.hash)}") for row in granted),
            seconds=0.0,
        )
        screen.step(
            7,
            "The enclaves decrypt the release into private memory",
            "The decrypted model is never written to the host's disk. Each enclave wipes the key after it has "
            "decrypted the files. SGX encrypts this memory in the processor; in this simulation, the operating system "
            "separates it from other users, but not from root.",
            *self._lines(
                ("private-memory", "memory: {method}"),
                ("mounts", "{files} files decrypted, {bytes} bytes; release key {key}"),
            ),
            *(("note", note) for note in self._private_memory_notes()),
            seconds=self._seconds("mounts", "key"),
        )
        screen.step(
            8,
            "The model servers load the model and serve it",
            "Each enclave runs a model server with the interface of TensorFlow Serving. It serves with the TLS key "
            "that the enclave created, so neither the host nor the owner has this key.",
            *((process.role, f"process {process.pid}, port {process.port}") for process in self._replicas),
        )

    def _private_memory_notes(self) -> list[str]:
        method_of = load_simulator().private_memory_method
        methods = {method_of(steps["private-memory"].evidence["method"]) for steps in self._steps.values()}
        return [method.note for method in sorted(methods) if method.note]

    def _lines(self, *templates: tuple[str, str]) -> list[tuple[str, str]]:
        """Return lines of evidence for each replica.

        Args:
            templates: Name of a launch step, and a text into which the logged values of this step are inserted.
        """
        return [
            (role, text.format_map({field: _value(value) for field, value in steps[name].evidence.items()}))
            for role, steps in self._steps.items()
            for name, text in templates
        ]

    def _seconds(self, start: str, end: str) -> float:
        return max((steps[end].time - steps[start].time).total_seconds() for steps in self._steps.values())


def tell_front(screen: Screen, log: Path, service_name: str, *, connections: int) -> None:
    """Show steps 10 and 11.

    Args:
        screen: Shows the steps.
        log: NGINX's access log.
        service_name: TLS server name of the connections to show.
        connections: Number of connections to wait for, at most 10 seconds. NGINX logs a connection when it ends.
    """
    wait_until(lambda: len(_connections(log, service_name)) >= connections, seconds=10)
    seen = _connections(log, service_name)
    received = sum(int(str(row["bytes_from_client"])) for row in seen)
    sent = sum(int(str(row["bytes_to_client"])) for row in seen)
    screen.step(
        10,
        "NGINX receives the connections on the host",
        "NGINX reads only the server name, which TLS sends unencrypted, to find the service. All other data that NGINX "
        "and the host see is ciphertext.",
        ("connections", f"{len(seen)} for {service_name}"),
        ("TLS data", f"{received / 1e6:.1f} MB from the user, {sent / 1e6:.2f} MB to the user"),
        seconds=0.0,
    )
    shares: dict[str, int] = {}
    for row in seen:
        shares[str(row["replica"])] = shares.get(str(row["replica"]), 0) + 1
    screen.step(
        11,
        "NGINX forwards the connections, still encrypted",
        "NGINX does not have a TLS key. It copies the encrypted bytes, and distributes connections among the replicas.",
        *((replica, f"{count} connections") for replica, count in sorted(shares.items())),
        seconds=0.0,
    )


def short(text: str | None) -> str:
    """Return the first 16 characters of a digest, or a text of at most 32 characters unchanged."""
    return f"{text[:SHORT]}..." if text and len(text) > 2 * SHORT else text or ""


def shortened(text: str) -> str:
    """Return a text with the beginnings of its digests and keys."""
    return _DIGEST.sub(lambda found: short(found.group()), text)


def _value(logged: str) -> str:
    return {"False": "off", "True": "on"}.get(logged) or short(logged)


def _connections(log: Path, service_name: str) -> list[dict[str, object]]:
    if not log.is_file():
        return []
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row for row in rows if row["server_name"] == service_name and row["replica"]]
