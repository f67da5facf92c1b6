"""Clean up after an error or Ctrl-C while a verb changes a deployment: stop what it started, and print one message."""

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
    """Stop the parts that the block started, if the block is interrupted or fails.

    Parts that ran before continue to serve users. A further Ctrl-C takes effect only after the clean-up.

    Args:
        workspace: The workspace of the deployment.
        kind: The target of the deployment. It is recorded, and the record is removed if nothing was started there.
        tell: Called with a description of each step of the clean-up.
        for_programs: Whether the output is JSON. After an error, only the error is then printed.

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
                console.say("Interrupted. Parts that ran before still run: `sealserve status` shows them.")
            elif stopped := targets.stop_all(workspace, tell=tell):
                console.say(f"Interrupted. Stopped the parts that had started: {', '.join(stopped)}.")
            else:
                console.say("Interrupted. No part had started.")
            raise
        except Exception:  # any kind, such as a full disk or an error of TensorFlow
            with contextlib.suppress(SealserveError):  # a target that does not answer keeps what was started there
                undone = targets.undo(workspace, before, tell=tell) if before is not None else ()
                if undone and not for_programs:
                    console.say(
                        f"The command failed. Stopped the parts that had started: {', '.join(undone)}. `sealserve "
                        "logs` shows their logs."
                    )
                if claimed_before is None and (before is None or not targets.running(workspace)):
                    targets.forget(workspace)
            raise


@contextlib.contextmanager
def stopping(workspace: Workspace) -> Iterator[None]:
    """Report which parts still run if the block is interrupted. A further Ctrl-C takes effect only after this."""
    with interrupted_once():
        try:
            yield
        except KeyboardInterrupt:
            if left := targets.running(workspace):
                console.say(f"Interrupted. Parts that still run: {', '.join(left)}. Stop them: `sealserve down`.")
            else:
                console.say("Interrupted. All parts have stopped.")
            raise
