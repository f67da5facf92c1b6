"""What an error or Ctrl-C leaves of a deployment that a verb was changing: nothing half-started, and one message."""

import contextlib
from collections.abc import Iterator, Sequence

from sealserve.cli import console
from sealserve.cluster import targets
from sealserve.errors import SealserveError
from sealserve.interruptions import interrupted_once
from sealserve.workspace import Workspace


@contextlib.contextmanager
def starting(
    workspace: Workspace, kind: str | None = None, *, tell: console.Tell, for_programs: bool = False
) -> Iterator[None]:
    """Stop what the block started if it is interrupted or fails; later interruptions wait until that is done.

    What ran before goes on: users are served by it.

    Args:
        workspace: Whose deployment it is.
        kind: The target that the deployment now runs on; it is forgotten again if nothing was started there.
        tell: Called with each step of the undoing.
        for_programs: Whether a program reads along: after an error it gets the error alone.

    Raises:
        InputError: `target.busy`: The deployment runs on another target.
    """
    claimed_before = targets.in_use(workspace)
    with interrupted_once():
        if kind is not None:
            targets.claim(workspace, kind)
        before: Sequence[str] | None = None
        try:
            before = targets.running(workspace)
            yield
        except KeyboardInterrupt:
            if before:
                console.say("Interrupted: what ran before goes on. `sealserve status` shows what there is.")
            elif stopped := targets.stop_all(workspace, tell=tell):
                console.say(f"Interrupted: stopped {', '.join(stopped)} again.")
            else:
                console.say("Interrupted: nothing was started.")
            raise
        except Exception:  # of whatever kind: a full disk, or an error of TensorFlow's
            with contextlib.suppress(SealserveError):  # where it answers no more, it keeps what was started there
                undone = targets.undo(workspace, before, tell=tell) if before is not None else ()
                if undone and not for_programs:
                    console.say(f"It failed: stopped {', '.join(undone)} again. `sealserve logs` shows their logs.")
                if claimed_before is None and (before is None or not targets.running(workspace)):
                    targets.forget(workspace)
            raise


@contextlib.contextmanager
def stopping(workspace: Workspace) -> Iterator[None]:
    """Say on interruption what still runs; later interruptions wait until that is said."""
    with interrupted_once():
        try:
            yield
        except KeyboardInterrupt:
            if left := targets.running(workspace):
                console.say(f"Interrupted: {', '.join(left)} still there. `sealserve down` stops the rest.")
            else:
                console.say("Interrupted: nothing runs any more.")
            raise
