"""The parts of a deployment, as `status` and the verbs that change it show them in the end."""

from collections.abc import Sequence
from dataclasses import asdict

from sealserve.cli.output import Output, Table
from sealserve.cluster.target import PartStatus


def show_parts(result: Output, parts: Sequence[PartStatus]) -> None:
    """Print the parts of a deployment, and how far each has come."""
    rows = [(part.role, part.state, part.port or "", part.instance or part.pid or "", _detail(part)) for part in parts]
    empty = "Nothing runs: `sealserve up` starts it."
    result.show([asdict(part) for part in parts], Table(("PART", "STATE", "PORT", "INSTANCE", ""), rows, empty=empty))


def _detail(part: PartStatus) -> str:
    restarts = f"restarts: {part.restarts}" if part.restarts else ""
    return "; ".join(filter(None, (restarts, part.detail)))
