"""The notifications that ``[broker.notifications]`` of ``sealserve.toml`` configures."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sealserve.broker.audit import AuditRow
from sealserve.broker.audit_entry import Decision
from sealserve.broker.change_watch import ChangeWatch
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.notification import CHANGES, MOST_WAITING, Notifier, document
from sealserve.broker.reloaded import Reloaded
from sealserve.broker.webhook import Receiver
from sealserve.deployment import Deployment

TEST: Final = "notification.test"
"""The ``type`` of a test notification."""

_CHANGED: Final = "changed"  # the event that stands for all changes by the owner and by administrators


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifications:
    """The notifications of a running broker.

    Args:
        notify: Reports the audit row of a decision.
        reloaded: The files that the broker reloads.
        totals: Returns the numbers of notifications so far, by their outcome.
        waiting: Returns the number of waiting notifications. `None` without a receiver.
        reported: Returns the last row of the audit log whose change was reported. `None` if changes are not reported.
    """

    notify: Callable[[AuditRow], None] = lambda _: None
    reloaded: tuple[Reloaded[Any], ...] = ()
    totals: Callable[[], Mapping[str, int]] = dict
    waiting: Callable[[], int] | None = None
    reported: Callable[[], int | None] = lambda: None


@contextlib.contextmanager
def notifications(
    deployment: Deployment,
    database: Database,
    *,
    processes: int = 1,
    changes: bool = True,
    changes_after: int | None = None,
) -> Iterator[Notifications]:
    """Yield the notifications of a broker. Without a URL, nothing is sent.

    Args:
        deployment: Supplies ``[broker.notifications]``.
        database: The broker's database. Its audit log contains the changes by the owner.
        processes: The number of processes that share the limit on waiting notifications.
        changes: Whether this process reports the changes by the owner. One process of a broker does.
        changes_after: The last row of the audit log that an earlier process reported. `None` begins at the end.

    Raises:
        SealserveError: A setting is invalid, as in `Receiver`.
    """
    settings = deployment.broker.notifications
    if settings.url is None:
        yield Notifications()
        return
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(open_receiver(deployment))
        decisions = {Decision(name) for name in settings.events if name != _CHANGED}
        changed = _CHANGED in settings.events
        notifier = stack.enter_context(
            Notifier(
                receiver.send,
                decisions=decisions | CHANGES if changed else decisions,
                limit=MOST_WAITING // processes,
            )
        )
        watch = None
        if changed and changes:
            watch = stack.enter_context(ChangeWatch(database, notifier, after=changes_after))
        yield Notifications(
            notify=notifier,
            reloaded=(receiver.secrets,),
            totals=notifier.totals,
            waiting=notifier.waiting,
            reported=lambda: None if watch is None else watch.reported,
        )


def open_receiver(deployment: Deployment) -> Receiver:
    """Return the configured receiver.

    Raises:
        InputError: `broker.notification-settings` if no receiver is configured, or a setting is invalid.
        SealserveError: The file with the secret cannot be read, or other users can read it.
    """
    settings = deployment.broker.notifications
    if settings.url is None or settings.secret_file is None:
        raise BrokerCode.NOTIFICATION_SETTINGS.error(
            "No receiver of notifications is configured.",
            hint="Set `url` and `secret_file` in the [broker.notifications] section of sealserve.toml.",
        )
    return Receiver(settings.url, secret_file=settings.secret_file, ca_file=settings.ca_file)


def send_test(deployment: Deployment) -> tuple[str, int]:
    """Send one signed test notification. Return the receiver without the path of its URL, and the HTTP status.

    Raises:
        NotDeliveredError: The receiver is unreachable, or did not accept the notification.
        SealserveError: A setting is invalid, as in `open_receiver`.
    """
    with open_receiver(deployment) as receiver:
        test = document(TEST, datetime.now(UTC), {"broker": deployment.broker.instance or deployment.broker.name})
        return repr(receiver), receiver.send(f"test-{secrets.token_hex(16)}", test)
