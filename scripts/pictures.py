"""Draw the pictures of the documentation as SVG files in docs/images/, or check them.

Each picture has its own background, and its colors follow the reader's light or dark mode. All text is text, so that
it can be searched and read aloud.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from scripts.generated_files import write_or_check

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
STYLE = """\
.page { fill: #ffffff } .plain { fill: #ffffff; stroke: #4b5563 } .zone { fill: #f3f4f6; stroke: #6b7280 }
.good { fill: #ecfdf3; stroke: #15803d } .bad { fill: #fef2f2; stroke: #b91c1c }
.enclave { fill: #fffbeb; stroke: #b45309 }
.line { stroke: #1d4ed8; fill: none } .tls { stroke: #7e22ce; fill: none } .quiet { stroke: #9ca3af; fill: none }
.head { fill: #1d4ed8 } .tls-head { fill: #7e22ce } .dot { fill: #1d4ed8 }
text { fill: #374151 } .title { fill: #111827; font-weight: 600 } .on-dot { fill: #ffffff; font-weight: 700 }
.label { fill: #1e40af } .tls-label { fill: #6b21a8 } .warn { fill: #b91c1c } .ok { fill: #15803d }
@media (prefers-color-scheme: dark) {
.page { fill: #1b1f27 } .plain { fill: #252b36; stroke: #9ca3af } .zone { fill: #20252f; stroke: #9ca3af }
.good { fill: #12291d; stroke: #4ade80 } .bad { fill: #331a1d; stroke: #f87171 }
.enclave { fill: #332a14; stroke: #fbbf24 }
.line { stroke: #60a5fa } .tls { stroke: #c084fc } .quiet { stroke: #6b7280 }
.head { fill: #60a5fa } .tls-head { fill: #c084fc } .dot { fill: #2563eb }
text { fill: #d1d5db } .title { fill: #f9fafb } .label { fill: #93c5fd } .tls-label { fill: #d8b4fe }
.warn { fill: #fca5a5 } .ok { fill: #86efac } }
"""
FONT = "system-ui, -apple-system, 'DejaVu Sans', sans-serif"


@dataclass(slots=True)
class Picture:
    """A picture that is being drawn. Lengths are in the units of the view box.

    Args:
        width: The width of the view box.
        height: The height of the view box.
        label: What the picture shows, for readers who cannot see it.
    """

    width: int
    height: int
    label: str
    parts: list[str] = field(default_factory=list)

    def box(  # noqa: PLR0917  # the geometry of a box
        self, x: int, y: int, width: int, height: int, title: str, lines: Sequence[str] = (), *, kind: str = "plain"
    ) -> None:
        """Draw a box with a title and lines of text."""
        dash = ' stroke-dasharray="7 4"' if kind == "enclave" else ""
        shape = (
            f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="9" stroke-width="1.6"{dash}/>'
        )
        self.parts.append(shape)
        self.text(x + 13, y + 24, title, kind="title", size=15)
        for number, line in enumerate(lines):
            self.text(x + 13, y + 45 + 18 * number, line)

    def text(self, x: float, y: float, text: str, *, kind: str = "", size: float = 13, anchor: str = "") -> None:
        """Write a line of text. ``anchor`` is "middle" or "end" to align it there."""
        aligned = f' text-anchor="{anchor}"' if anchor else ""
        styled = f' class="{kind}"' if kind else ""
        self.parts.append(
            f'<text{styled} x="{x}" y="{y}" font-size="{size}"{aligned}>{escape(text, quote=False)}</text>'
        )

    def arrow(self, *points: tuple[int, int], kind: str = "line", both: bool = False) -> None:
        """Draw an arrow along points. ``both`` gives it two heads."""
        path = "M" + "L".join(f"{x} {y}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if kind == "quiet" else ""
        end = "" if kind == "quiet" else f' marker-end="url(#{kind})"'
        start = f' marker-start="url(#{kind})"' if both else ""
        self.parts.append(f'<path class="{kind}" d="{path}" stroke-width="2"{dash}{start}{end}/>')

    def step(self, x: int, y: int, number: int | str) -> None:
        """Draw the number of a step in a circle."""
        self.parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="11.5"/>')
        self.text(x, y + 4.5, str(number), kind="on-dot", size=12.5, anchor="middle")

    def svg(self) -> str:
        """Return the file."""
        heads = "".join(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path class="{head}" d="M0 0L10 5L0 10z"/></marker>'
            for name, head in (("line", "head"), ("tls", "tls-head"))
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'font-family="{FONT}" role="img" aria-label="{escape(self.label)}">\n'
            f"<!-- Written by scripts/pictures.py: change that, then run `make pictures`. -->\n"
            f"<title>{escape(self.label)}</title>\n<style>\n{STYLE}</style>\n<defs>{heads}</defs>\n"
            f'<rect class="page" width="{self.width}" height="{self.height}" rx="12"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def overview() -> Picture:
    """Draw the three machines and the twelve steps."""
    p = Picture(1000, 660, "The machines of the owner, the host and the user, and the twelve steps between them")
    p.box(
        20,
        16,
        730,
        58,
        "Processor vendor (Intel, or simulated)",
        ["PCK certificates, TCB information, revocation lists"],
    )
    p.box(20, 118, 258, 330, "Owner (trusted)", ["plaintext model,", "signing keys, authorities"], kind="good")
    p.box(38, 196, 222, 106, "Broker", ["verifies the evidence,", "records its decision,", "releases the key"])
    p.box(38, 352, 222, 78, "Release build", ["seals the model and the", "TLS key under a fresh key"])
    p.box(380, 118, 370, 330, "Host", kind="bad")
    p.text(737, 142, "not trusted: sees ciphertext only", kind="warn", anchor="end")
    p.box(398, 158, 206, 84, "Enclave", ["model server", "TLS ends here"], kind="enclave")
    p.box(398, 258, 206, 58, "Enclave", ["another replica"], kind="enclave")
    p.box(398, 352, 206, 78, "Sealed release", ["encrypted files,", "signed index"])
    p.box(644, 200, 92, 84, "NGINX", ["holds", "no key"])
    p.box(
        840,
        158,
        144,
        150,
        "User (trusted)",
        ["sends requests,", "verifies the", "service's", "certificate"],
        kind="good",
    )
    p.arrow((232, 74), (232, 196))
    p.step(254, 97, 5)
    p.arrow((500, 74), (500, 118))
    p.step(522, 97, 1)
    p.arrow((260, 390), (398, 390))
    p.step(329, 374, 2)
    p.step(584, 178, 3)
    p.arrow((398, 214), (260, 214), kind="tls")
    p.step(329, 198, 4)
    p.arrow((260, 272), (398, 272), kind="tls")
    p.step(329, 290, 6)
    p.arrow((500, 352), (500, 316))
    p.step(522, 334, 7)
    p.step(584, 222, 8)
    p.arrow((840, 224), (736, 224), kind="tls")
    p.step(776, 208, 9)
    p.step(804, 208, 10)
    p.arrow((644, 222), (604, 206), kind="tls")
    p.arrow((644, 256), (604, 284), kind="tls")
    p.step(624, 190, 11)
    p.arrow((736, 262), (840, 262), kind="tls")
    p.step(790, 279, 12)
    steps = (
        "The vendor certifies the platform.",
        "The owner seals the model and ships it.",
        "The host starts an enclave.",
        "The enclave shows evidence (RA-TLS).",
        "The broker verifies the evidence.",
        "The broker releases the key.",
        "The enclave decrypts the release.",
        "The model server starts.",
        "A user connects with TLS.",
        "NGINX reads only the server name.",
        "NGINX forwards the encrypted request.",
        "The encrypted answer returns.",
    )
    for index, text in enumerate(steps):
        x, y = 34 + 322 * (index // 4), 488 + 34 * (index % 4)
        p.step(x, y, index + 1)
        p.text(x + 20, y + 4.5, text)
    p.arrow((34, 634), (84, 634), kind="tls")
    p.text(94, 638, "TLS from end to end")
    p.arrow((270, 634), (320, 634))
    p.text(330, 638, "files and certificates")
    return p


def key_release() -> Picture:
    """Draw the messages of a key release, from evidence to key."""
    p = Picture(1000, 720, "How the broker decides about a request for a key, and what it records before it answers")
    columns = {"enclave": 120, "broker": 440, "vendor": 700, "owner": 890}
    p.box(30, 18, 180, 62, "Enclave", ["on the untrusted host"], kind="enclave")
    p.box(350, 18, 180, 62, "Broker", ["on the owner's machine"], kind="good")
    p.box(610, 18, 180, 62, "Collateral source", ["vendor's PCS or a PCCS"])
    p.box(810, 18, 166, 62, "Owner's files", ["keystore, database"], kind="good")
    for x in columns.values():
        p.arrow((x, 80), (x, 656), kind="quiet")
    enclave, broker, vendor, owner = columns.values()

    def message(y: int, start: int, end: int, text: str, *, tls: bool = False) -> None:
        p.arrow((start, y), (end, y), kind="tls" if tls else "line")
        p.text((start + end) / 2, y - 8, text, kind="tls-label" if tls else "label", anchor="middle")

    def work(y: int, first: str, lines: Sequence[str], height: int) -> None:
        p.box(290, y, 300, height, first, lines)

    message(118, enclave, broker, "1-3  TLS with the quote in the certificate", tls=True)
    work(136, "4-8  Checks without a network", [
        "The quote parses and binds the TLS key.",
        "Its measurement selects a release,",
        "which is active or draining.",
        "Not a debug enclave; the right root.",
    ], 124)  # fmt: skip
    message(292, broker, vendor, "9  fetch the collateral")
    message(326, vendor, broker, "TCB information, revocation lists")
    work(346, "10-12  Verify and appraise", [
        "Signatures up to the vendor's root.",
        "Collateral not older than any before.",
        "Reference values and TCB policy.",
    ], 106)  # fmt: skip
    message(486, owner, broker, "13  the release key of the keystore")
    work(504, "14  Check again, then record", [
        "One transaction: the release is still",
        "allowed, and the audit row is written.",
    ], 86)  # fmt: skip
    message(612, broker, owner, "commit")
    message(648, broker, enclave, "15  the release key", tls=True)
    p.text(120, 680, "decrypts the release", anchor="middle")
    p.text(440, 680, "A failed check ends the request without a key.", kind="warn", anchor="middle")
    p.text(440, 704, "The numbers are the steps in sealserve.broker.decision.", size=11.5, anchor="middle")
    return p


def kubernetes_network() -> Picture:
    """Draw the connections of a deployment in Kubernetes, and the NetworkPolicies that allow them."""
    p = Picture(1000, 560, "The network of a Kubernetes deployment: users, NGINX, replicas, broker, store and DNS")
    p.box(20, 120, 150, 128, "Users", ["gRPC or REST", "over TLS"], kind="good")
    p.box(210, 20, 520, 430, "Kubernetes cluster", kind="bad")
    p.text(717, 44, "not trusted", kind="warn", anchor="end")
    p.box(230, 58, 480, 228, "Namespace of the deployment", ["NetworkPolicies allow only these arrows"], kind="zone")
    p.box(250, 140, 170, 108, "Front: NGINX", ["Service port 8500", "reads the SNI only,", "holds no key"])
    p.box(500, 128, 190, 62, "Replica", ["pod with one enclave"], kind="enclave")
    p.box(500, 206, 190, 62, "Replica", ["pod with one enclave"], kind="enclave")
    p.box(250, 344, 170, 84, "Prometheus", ["another namespace;", "optional, over TLS"])
    p.box(500, 344, 190, 84, "Cluster DNS", ["another namespace;", "NGINX uses it too"])
    p.box(800, 110, 180, 104, "Broker", ["owner's machine,", "outside the cluster", "port 4433"], kind="good")
    p.box(800, 250, 180, 104, "Release store", ["web server or S3:", "sealed and signed", "releases"])
    p.arrow((170, 190), (250, 190), kind="tls")
    p.text(210, 180, "8500", kind="tls-label", anchor="middle")
    p.arrow((420, 176), (500, 160), kind="tls")
    p.arrow((420, 212), (500, 236), kind="tls")
    p.text(462, 204, "TLS", kind="tls-label", anchor="middle")
    p.arrow((690, 156), (800, 156), kind="tls")
    p.text(765, 146, "RA-TLS", kind="tls-label", anchor="middle")
    p.arrow((690, 236), (756, 236), (756, 300), (800, 300))
    p.text(764, 290, "fetch", kind="label")
    p.arrow((620, 268), (620, 344))
    p.text(630, 318, "port 53", kind="label")
    p.arrow((420, 386), (460, 386), (460, 252), (500, 252), kind="tls")
    p.text(468, 326, "metrics", kind="tls-label")
    p.arrow((40, 488), (90, 488), kind="tls")
    p.text(100, 492, "TLS that ends in an enclave, or RA-TLS between an enclave and the broker")
    p.arrow((40, 514), (90, 514))
    p.text(100, 518, "other connections: sealed files, names")
    p.text(
        40,
        544,
        "NetworkPolicies bind pods, not nodes. The root user of a node reads all traffic, which is ciphertext.",
        kind="warn",
    )
    return p


def trust_boundaries() -> Picture:
    """Draw the trust boundaries of the threat model."""
    p = Picture(1000, 500, "The trust boundaries between owner, host, enclave and user")
    p.box(20, 40, 240, 350, "Owner", ["plaintext model, keys,", "certificate authorities"], kind="good")
    p.text(247, 64, "trusted", kind="ok", anchor="end")
    p.box(40, 130, 200, 84, "Release build", ["encrypts and signs"])
    p.box(40, 256, 200, 104, "Broker", ["appraises evidence,", "releases keys,", "writes the audit log"])
    p.box(370, 40, 370, 350, "Host", ["operating system, root user, network,", "NGINX, clock, storage"], kind="bad")
    p.text(727, 64, "not trusted", kind="warn", anchor="end")
    p.box(396, 126, 318, 60, "Sealed release and NGINX", ["ciphertext, server names, sizes, timing"])
    p.box(
        396,
        250,
        318,
        116,
        "Enclave (attested)",
        ["plaintext model, release key,", "private key of the service,", "requests and answers"],
        kind="enclave",
    )
    p.box(840, 200, 144, 130, "User", ["own requests", "and answers,", "service's CA"], kind="good")
    p.arrow((240, 160), (396, 160))
    p.step(315, 142, "A")
    p.arrow((555, 186), (555, 250))
    p.step(577, 218, "B")
    p.arrow((396, 308), (240, 308), kind="tls", both=True)
    p.step(315, 290, "C")
    p.arrow((840, 296), (714, 296), kind="tls", both=True)
    p.step(790, 278, "D")
    rows = (
        ("A", "Owner to host: encryption under the release key, signed indexes"),
        ("B", "Host to enclave: measured manifest, measured and sealed files only"),
        ("C", "Enclave to broker: RA-TLS; the broker appraises evidence first"),
        ("D", "User to enclave: TLS that ends in the enclave; NGINX forwards it"),
    )
    for index, (name, text) in enumerate(rows):
        x, y = 40 + 500 * (index // 2), 424 + 38 * (index % 2)
        p.step(x, y, name)
        p.text(x + 20, y + 4.5, text, size=12.5)
    return p


def _duration(microseconds: float) -> str:
    """Return a time in its usual unit."""
    for unit, size, digits in (("s", 1e6, 2), ("ms", 1e3, 1)):
        if microseconds >= size:
            return f"{microseconds / size:.{digits}f} {unit}"
    return f"{microseconds:.0f} \u00b5s"


def _waterfall(p: Picture, top: int, title: str, spans: Sequence[Mapping[str, Any]]) -> None:
    """Draw the spans of one trace below each other, each as a bar on the axis of time."""
    left, width, row = 300, 560, 30
    total = max(span["start_us"] + span["duration_us"] for span in spans)
    p.text(24, top, title, kind="title", size=15)
    for tick in range(5):
        x = left + width * tick // 4
        p.parts.append(
            f'<path class="quiet" d="M{x} {top + 26}V{top + 40 + row * len(spans)}" stroke-dasharray="2 4"/>'
        )
        p.text(x, top + 20, _duration(total * tick / 4) if tick else "0", size=11.5, anchor="middle")
    for number, span in enumerate(spans):
        y = top + 38 + row * number
        p.text(24 + 22 * span["depth"], y + 14, span["name"], kind="title", size=13)
        p.text(left - 18, y + 14, span["service"].removeprefix("sealserve-"), size=11, anchor="end")
        x = left + width * span["start_us"] / total
        wide = max(width * span["duration_us"] / total, 2.5)
        kind = "good" if span["service"] == "sealserve-client" else "enclave"
        p.parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{wide:.1f}" height="18" rx="3"/>')
        p.text(max(x + wide, left) + 8, y + 14, _duration(span["duration_us"]), size=12)


def trace() -> Picture:
    """Draw two recorded traces: a request, and the start of a replica."""
    recorded = json.loads((Path(__file__).parent / "trace_example.json").read_text(encoding="utf-8"))
    p = Picture(1000, 480, "Two traces: a request from predict to TensorFlow, and the start of a replica")
    _waterfall(p, 36, "sealserve predict --trace-collector (ResNet-50)", recorded["request"])
    _waterfall(p, 236, "The start of a replica", recorded["start"])
    return p


PICTURES: Mapping[str, Callable[[], Picture]] = {
    "overview.svg": overview,
    "key-release.svg": key_release,
    "kubernetes-network.svg": kubernetes_network,
    "trace.svg": trace,
    "trust-boundaries.svg": trust_boundaries,
}


def main() -> None:
    """Draw the pictures, or compare them with ``--check``."""

    def drawn(draw: Callable[[], Picture]) -> str:
        return draw().svg()

    files = {FOLDER / name: partial(drawn, draw) for name, draw in PICTURES.items()}
    write_or_check(files, description=__doc__, target="pictures")


if __name__ == "__main__":
    main()
