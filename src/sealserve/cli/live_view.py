"""A live view of a deployment while it starts or changes: its parts, and the current step.

On a terminal, the view is a table that follows the target's status. Otherwise each new step is printed as one line on
standard error.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sealserve.cli import console
from sealserve.cluster.target import PartStatus, State, Target
from sealserve.errors import SealserveError

_POLL_SECONDS: Final = 1.0
_STYLES: Final = {
    State.STARTING: "yellow",
    State.REFUSED: "red",
    State.ATTESTED: "cyan",
    State.RUNNING: "green",
    State.SERVING: "green",
    State.NEXT: "cyan",
    State.LEAVING: "yellow",
    State.ENDED: "red",
    State.MISSING: "red",
}


@contextlib.contextmanager
def live_view(
    description: str, open_watched: Callable[[], Target], *, for_programs: bool = False
) -> Iterator[console.Tell]:
    """Show a target while it changes; yields a function to call with the description of each step.

    Args:
        description: Description of the first step.
        open_watched: Opens the target a second time. Another thread polls the status of this second target.
        for_programs: Whether the output is JSON. Steps are then not printed, except on a terminal.
    """
    if not console.err.is_terminal:
        yield console.quietly if for_programs else _Lines()
        return
    view = _View(description)
    done = threading.Event()

    def poll() -> None:
        watched: Target | None = None
        while not done.wait(_POLL_SECONDS):
            with contextlib.suppress(SealserveError, OSError):  # the main thread reports errors of the target
                watched = watched or open_watched()
                view.parts = watched.status()

    thread = threading.Thread(target=poll, name="live-view", daemon=True)
    with Live(console=console.err, transient=True, get_renderable=view.render, refresh_per_second=8):
        thread.start()
        try:
            yield view.tell
        finally:
            done.set()


class _Lines:
    """Prints each step once, on standard error."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, text: str) -> None:
        if text != self._last:
            self._last = text
            console.err.print(text)


class _View:
    def __init__(self, description: str) -> None:
        self.parts: Sequence[PartStatus] = ()
        self._spinner = Spinner("dots", Text(console.visible(description), no_wrap=True, overflow="ellipsis"))

    def tell(self, text: str) -> None:
        self._spinner.update(text=Text(console.visible(text), no_wrap=True, overflow="ellipsis"))

    def render(self) -> RenderableType:
        parts = self.parts
        return Group(_table(parts), self._spinner) if parts else self._spinner


def _table(parts: Sequence[PartStatus]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), expand=True)
    for column in ("PART", "STATE", "INSTANCE"):
        table.add_column(column, no_wrap=True)
    table.add_column("", overflow="fold", ratio=1)
    for part in parts:
        state = Text(part.state, _STYLES[part.state])
        table.add_row(part.role, state, part.instance or str(part.pid or ""), Text(console.visible(_words(part))))
    return table


def _words(part: PartStatus) -> str:
    """Return the error of a part that is not well, else its detail."""
    return part.detail if part.is_well else part.error or part.detail
