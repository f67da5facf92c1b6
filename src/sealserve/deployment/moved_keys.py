"""Former names of keys: earlier versions wrote every key of ``[kubernetes]`` into one table.

`take_along` moves the values to the current keys, so that old files keep working. `Moved` records what the user must
rename.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

SECTION: Final = "kubernetes"

MOVED: Final[Mapping[str, tuple[str, str]]] = {
    "release_source": ("store", "source"),
    "store_folder": ("store", "folder"),
    "store_addresses": ("store", "addresses"),
    "storage_class": ("store", "storage_class"),
    "storage_size": ("store", "storage_size"),
    "cpu": ("resources", "cpu"),
    "memory": ("resources", "memory"),
    "epc": ("resources", "epc"),
    "epc_resource": ("resources", "epc_resource"),
    "enclave_resource": ("resources", "enclave_resource"),
    "node_selector": ("scheduling", "node_selector"),
    "tolerate": ("scheduling", "tolerations"),
    "max_replicas": ("autoscaler", "max_replicas"),
    "cpu_percent": ("autoscaler", "cpu_percent"),
    "latency_metric": ("autoscaler", "latency_metric"),
    "latency_target": ("autoscaler", "latency_target"),
    "pull_policy": ("images", "pull_policy"),
    "pull_secret": ("images", "pull_secret"),
    "inventory": ("images", "inventory"),
    "front": ("ingress", "kind"),
    "front_replicas": ("ingress", "replicas"),
    "gateway": ("ingress", "gateway"),
    "tls_route_version": ("ingress", "tls_route_version"),
    "controller_namespace": ("ingress", "controller_namespace"),
    "service_type": ("service", "type"),
    "node_port": ("service", "node_port"),
    "service_annotations": ("service", "annotations"),
    "internal": ("service", "internal"),
    "proxy_protocol": ("service", "proxy_protocol"),
    "dns_namespace": ("dns", "namespace"),
    "dns_labels": ("dns", "labels"),
    "dns_port": ("dns", "port"),
    "dns_addresses": ("dns", "addresses"),
    "broker_naming": ("broker", "naming"),
    "broker_ip": ("broker", "ip"),
    "broker_external_name": ("broker", "external_name"),
    "dangerous_broker_inside": ("broker", "dangerous_inside"),
    "monitoring": ("monitoring", "enabled"),  # a table has this name now: only a plain value is the former key
    "monitoring_namespace": ("monitoring", "namespace"),
    "scrape_secret": ("monitoring", "scrape_secret"),
}
"""The current table and key, by former name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A key that a file writes by its former name.

    Args:
        old: The former name, without the section's name.
        new: The current table and key.
        clash: Whether the file also sets the current key.
    """

    old: str
    new: tuple[str, str]
    clash: bool


def take_along(data: dict[str, Any]) -> tuple[Moved, ...]:
    """Move the values of former keys to the current keys, and return the keys that were moved.

    This function checks nothing. The validation of the file reports a value of the wrong type.

    Args:
        data: A parsed ``sealserve.toml``. It is changed in place.
    """
    section = data.get(SECTION)
    return tuple(_move(section)) if isinstance(section, dict) else ()


def _move(section: dict[str, Any]) -> Iterator[Moved]:
    former = [old for old in MOVED if old in section and not (old in _TABLES and isinstance(section[old], dict | list))]
    for old in sorted(former, key=lambda old: old not in _TABLES):  # first the names that are tables now, to free them
        value = section.pop(old)
        table, key = MOVED[old]
        place = section.setdefault(table, {})
        clash = isinstance(place, dict) and key in place
        if isinstance(place, dict) and not clash:  # validation reports a place that is not a table
            place[key] = value
        yield Moved(old=old, new=(table, key), clash=clash)


_TABLES: Final = frozenset(table for table, _ in MOVED.values())
