"""The changes that `up` would make on the local target, as text for people."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

A_FREE_PORT: Final = 1
"""Placeholder for the port of an enclave that is not built yet. The build chooses a free port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalState:
    """The parts of a local deployment, as they run or as they are described.

    Args:
        release: The name of the release. None if no replica runs.
        ports: The port of each part, by role. None for a part without a port.
        front: NGINX's configuration. Empty if NGINX does not run.
    """

    release: str | None
    ports: Mapping[str, int | None]
    front: str


def difference(running: LocalState, described: LocalState) -> str:
    """Return two unified diffs: one of the release and the parts' ports, one of NGINX's configuration."""
    pairs = (
        ("parts", _parts(running), _parts(described)),
        ("nginx.conf", _front(running), _front(described)),
    )
    return "".join(
        line
        for name, before, after in pairs
        for line in difflib.unified_diff(before, after, f"running/{name}", f"deployment/{name}")
    )


def _parts(state: LocalState) -> list[str]:
    lines = [] if state.release is None else [f"release: {state.release}\n"]
    return [*lines, *(f"{role}: {_port(port)}\n" for role, port in sorted(state.ports.items()))]


def _port(port: int | None) -> str:
    if port is None:
        return "no port"
    return "a free port" if port == A_FREE_PORT else f"port {port}"


def _front(state: LocalState) -> list[str]:
    text = state.front.replace(f":{A_FREE_PORT} max_fails", ":(a free port) max_fails")
    return text.splitlines(keepends=True)
