"""Removing from a cluster what was made there, and nothing else."""

import time
from typing import Final

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.broker_name import COREFILE, remove_entry
from sealserve.cluster.kubernetes.cluster_client import ClusterClient, ObjectName
from sealserve.cluster.kubernetes.rollout import CHECK_SECONDS
from sealserve.cluster.target import Tell

_LONGEST_SECONDS: Final = 900


def remove(client: ClusterClient, name: ObjectName) -> None:
    """Remove an object; of one that was only changed, what was written into it."""
    if name == COREFILE:
        _forget_broker(client)
    else:
        client.delete(name)


def _forget_broker(client: ClusterClient) -> None:
    config = client.get(COREFILE)
    if config is not None:
        client.merge(COREFILE, {"data": {"Corefile": remove_entry(config["data"]["Corefile"])}})


def wait_gone(client: ClusterClient, name: ObjectName, tell: Tell) -> None:
    """Wait until an object that was removed is gone.

    Raises:
        UnavailableError: `kubernetes.rollout-slow`: It still exists after 15 minutes.
    """
    deadline = time.monotonic() + _LONGEST_SECONDS
    while client.get(name) is not None:
        tell(f"{called(name)} finishes")
        if time.monotonic() > deadline:
            raise ClusterCode.KUBERNETES_ROLLOUT_SLOW.error(
                f"{called(name)} is still there.", hint="`kubectl describe` it, then `sealserve down`."
            )
        time.sleep(CHECK_SECONDS)


def called(name: ObjectName) -> str:
    """Return what people call an object: its kind and its name."""
    return f"{name.kind.lower()}/{name.name}"
