"""Removes exactly the objects from a cluster that sealserve created there."""

import time
from typing import Final

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.broker_name import COREFILE, remove_entry
from sealserve.cluster.kubernetes.cluster_client import ClusterClient, ObjectName
from sealserve.cluster.kubernetes.rollout import CHECK_SECONDS
from sealserve.cluster.target import Tell

_LONGEST_SECONDS: Final = 900


def remove(client: ClusterClient, name: ObjectName) -> None:
    """Delete an object. From an object that was only changed, remove the change."""
    if name == COREFILE:
        _forget_broker(client)
    else:
        client.delete(name)


def _forget_broker(client: ClusterClient) -> None:
    config = client.get(COREFILE)
    if config is not None:
        client.merge(COREFILE, {"data": {"Corefile": remove_entry(config["data"]["Corefile"])}})


def wait_gone(client: ClusterClient, name: ObjectName, tell: Tell) -> None:
    """Wait until a deleted object no longer exists.

    Raises:
        UnavailableError: `kubernetes.rollout-slow` if it still exists after 15 minutes.
    """
    deadline = time.monotonic() + _LONGEST_SECONDS
    while client.get(name) is not None:
        tell(f"waiting for the deletion of {called(name)}")
        if time.monotonic() > deadline:
            raise ClusterCode.KUBERNETES_ROLLOUT_SLOW.error(
                f"{called(name)} still exists {_LONGEST_SECONDS // 60} minutes after its deletion.",
                hint="Find the reason with `kubectl describe`, then run `sealserve down` again.",
            )
        time.sleep(CHECK_SECONDS)


def called(name: ObjectName) -> str:
    """Return an object's kind and name, as kubectl prints them."""
    return f"{name.kind.lower()}/{name.name}"
