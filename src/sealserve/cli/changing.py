"""The locks of verbs: one lock while they change a deployment, one while they create models and releases."""

from contextlib import AbstractContextManager

from sealserve.cli import console
from sealserve.cluster import deployment_lock
from sealserve.workspace import Workspace


def changing(workspace: Workspace, verb: str, *, no_wait: bool) -> AbstractContextManager[None]:
    """Return a context manager that holds the deployment's lock.

    Args:
        workspace: The workspace of the deployment.
        verb: The verb, as a user types it; other commands show it while they wait.
        no_wait: Fail immediately if another command holds the lock.

    Raises:
        UnavailableError: `deployment.busy`: Another command holds the lock.
    """
    return _held(workspace, verb, deployment_lock.DEPLOYMENT, no_wait=no_wait)


def owning(workspace: Workspace, verb: str, *, no_wait: bool) -> AbstractContextManager[None]:
    """Return a context manager that holds the lock of the owner's models and releases.

    A verb that needs both locks takes this lock before `changing`. Supervision continues to restart parts while this
    lock is held, so a verb may hold it as long as the conversion of a model takes.

    Args:
        workspace: The owner's workspace.
        verb: The verb, as a user types it; other commands show it while they wait.
        no_wait: Fail immediately if another command holds the lock.

    Raises:
        UnavailableError: `deployment.busy`: Another command holds the lock.
    """
    return _held(workspace, verb, deployment_lock.OWNERS, no_wait=no_wait)


def _held(workspace: Workspace, verb: str, lock: str, *, no_wait: bool) -> AbstractContextManager[None]:
    seconds = 0 if no_wait else deployment_lock.WAIT_SECONDS
    return deployment_lock.held(
        workspace, verb, lock=lock, seconds=seconds, tell=lambda text: console.say(f"{text}...")
    )
