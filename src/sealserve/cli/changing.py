"""The lock that each verb holds while it changes a deployment."""

from contextlib import AbstractContextManager

from sealserve.cli import console
from sealserve.cluster import deployment_lock
from sealserve.workspace import Workspace


def changing(workspace: Workspace, verb: str, *, no_wait: bool) -> AbstractContextManager[None]:
    """Return a context manager that holds the deployment's lock.

    Args:
        workspace: Whose deployment is changed.
        verb: The verb, as a user types it.
        no_wait: Whether a busy lock is an error at once.

    Raises:
        UnavailableError: `deployment.busy`: Another command holds the lock.
    """
    seconds = 0 if no_wait else deployment_lock.WAIT_SECONDS
    return deployment_lock.held(workspace, verb, seconds=seconds, tell=lambda text: console.say(f"{text}..."))
