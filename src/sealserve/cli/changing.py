"""The locks that verbs hold: one while they change a deployment, one while they make models and releases."""

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
    return _held(workspace, verb, deployment_lock.DEPLOYMENT, no_wait=no_wait)


def owning(workspace: Workspace, verb: str, *, no_wait: bool) -> AbstractContextManager[None]:
    """Return a context manager that holds the lock of the owner's models and releases. It is taken before `changing`.

    Parts that end are started again while it is held, so it may be held for as long as a model takes to convert.

    Args:
        workspace: Whose models and releases are made.
        verb: The verb, as a user types it.
        no_wait: Whether a busy lock is an error at once.

    Raises:
        UnavailableError: `deployment.busy`: Another command holds the lock.
    """
    return _held(workspace, verb, deployment_lock.OWNERS, no_wait=no_wait)


def _held(workspace: Workspace, verb: str, lock: str, *, no_wait: bool) -> AbstractContextManager[None]:
    seconds = 0 if no_wait else deployment_lock.WAIT_SECONDS
    return deployment_lock.held(
        workspace, verb, lock=lock, seconds=seconds, tell=lambda text: console.say(f"{text}...")
    )
