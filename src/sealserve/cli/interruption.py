"""What Ctrl-C leaves of a deployment that a verb was changing: nothing half-started, and one message."""

import contextlib
from collections.abc import Iterator

from sealserve.cli import console
from sealserve.cluster import targets
from sealserve.cluster.processes import interrupted_once
from sealserve.workspace import Workspace


@contextlib.contextmanager
def starting(workspace: Workspace, *, tell: console.Tell) -> Iterator[None]:
    """Stop on interruption what the block started, if nothing ran before; later interruptions wait until that is done.

    What ran before goes on: users are served by it.
    """
    before = targets.running(workspace)
    with interrupted_once():
        try:
            yield
        except KeyboardInterrupt:
            if before:
                console.say("Interrupted: what ran before goes on. `sealserve status` shows what there is.")
            elif stopped := targets.stop_all(workspace, tell=tell):
                console.say(f"Interrupted: stopped {', '.join(stopped)} again.")
            else:
                console.say("Interrupted: nothing was started.")
            raise


@contextlib.contextmanager
def stopping(workspace: Workspace) -> Iterator[None]:
    """Say on interruption what still runs; later interruptions wait until that is said."""
    with interrupted_once():
        try:
            yield
        except KeyboardInterrupt:
            left = targets.running(workspace)
            if left:
                console.say(f"Interrupted: {', '.join(left)} still there. `sealserve down` stops the rest.")
            else:
                console.say("Interrupted: nothing runs any more.")
            raise
