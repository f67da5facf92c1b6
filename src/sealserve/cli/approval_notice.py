"""Sentences about platforms that wait for an approval, with the command that approves them.

An enclave that waits only reports that the broker closed the connection. The reason is in the owner's audit log.
"""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from sealserve.broker import approval_requests
from sealserve.cli import console
from sealserve.cli.context import Context
from sealserve.errors import SealserveError
from sealserve.owner.broker_database import may_exist
from sealserve.owner.owner import Owner
from sealserve.workspace import Workspace

_MOST: Final = 3


def waiting(workspace: Workspace) -> Sequence[str]:
    """Return a sentence for each platform that waits, newest request first.

    The result is empty if this machine does not have the broker's database, or if the database cannot be read.
    """
    try:
        if not may_exist(workspace):
            return ()
        with Owner.open(workspace).database() as database:
            found = approval_requests.pending(database, now=datetime.now(UTC))
    except (SealserveError, OSError):  # the commands of the broker report it
        return ()
    sentences = [
        f"The platform {item.platform_id} waits for an approval of the release {item.release}. Approve it: `sealserve "
        f"broker approve {item.release} {item.platform_id}`."
        for item in found[:_MOST]
    ]
    if (more := len(found) - _MOST) > 0:
        sentences.append(f"{more} more platforms wait for an approval. List them: `sealserve broker pending`.")
    return sentences


@contextlib.contextmanager
def told_on_failure(context: Context) -> Iterator[None]:
    """Print the platforms that wait if the block fails, because the wait is a likely reason."""
    try:
        yield
    except SealserveError:
        if not context.as_json:  # then the error is the only output
            for sentence in waiting(context.workspace):
                console.warn(sentence)
        raise
