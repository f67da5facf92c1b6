"""``sealserve broker notify-test``: send one test notification to the configured receiver."""

import logging

from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred

with deferred:
    from sealserve.cli.administration import administration


def notify_test(context: Context) -> None:
    """Send one signed test notification to the receiver in [broker.notifications], and print the HTTP status."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log the URL
    with administration(context) as broker:
        sent = broker.test_notification()
    context.show(
        {"receiver": sent.receiver, "status": sent.status},
        f"{sent.receiver} accepted the test notification (HTTP status {sent.status}).",
    )
