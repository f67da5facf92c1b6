import json

import pytest
from tests.harness.errors import raises

from sealserve import deployment
from sealserve.deployment.codes import DeploymentCode
from sealserve.deployment.moved_keys import MOVED
from sealserve.deployment.section import fields_of, section_of
from sealserve.deployment.sections.kubernetes import KubernetesSection
from sealserve.deprecation import DeprecatedKeyWarning

MINIMAL = '[model]\nname = "m"\n'

VALUES = {
    "release_source": "claim:releases",
    "store_folder": "store",
    "store_addresses": ["198.51.100.0/24"],
    "storage_class": "nfs",
    "storage_size": "5Gi",
    "cpu": "2",
    "memory": "8Gi",
    "epc": "1Gi",
    "epc_resource": "example.com/epc",
    "enclave_resource": "",
    "node_selector": {"pool": "sgx"},
    "tolerate": ["sgx"],
    "max_replicas": 8,
    "cpu_percent": 50,
    "latency_metric": "latency",
    "latency_target": "20m",
    "pull_policy": "Always",
    "pull_secret": "pull",
    "inventory": "inventory.json",
    "front": "f5",
    "front_replicas": 3,
    "gateway": "infra/public",
    "tls_route_version": "v1alpha2",
    "controller_namespace": "controllers",
    "service_type": "NodePort",
    "node_port": 30500,
    "service_annotations": {"a": "b"},
    "internal": True,
    "proxy_protocol": True,
    "dns_namespace": "openshift-dns",
    "dns_labels": {"dns": "default"},
    "dns_port": 5353,
    "dns_addresses": ["169.254.20.10"],
    "broker_naming": "coredns-hosts",
    "broker_ip": "192.0.2.7",
    "broker_external_name": "broker.example.com",
    "dangerous_broker_inside": True,
    "monitoring": True,
    "monitoring_namespace": "watch",
    "scrape_secret": "scrape",
}
"""A non-default value for each former key."""


def written(value: object) -> str:
    """Return a value in TOML syntax."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def test_each_former_key_means_what_the_new_one_means() -> None:
    assert set(VALUES) == set(MOVED)
    old = "".join(f"{key} = {written(value)}\n" for key, value in VALUES.items())
    new = "".join(f"{'.'.join(MOVED[key])} = {written(value)}\n" for key, value in VALUES.items())
    with pytest.warns(DeprecatedKeyWarning) as caught:
        parsed = deployment.parse(f"{MINIMAL}[kubernetes]\n{old}")
    assert parsed == deployment.parse(f"{MINIMAL}[kubernetes]\n{new}")
    defaults = KubernetesSection()
    for table, key in MOVED.values():
        assert getattr(getattr(parsed.kubernetes, table), key) != getattr(getattr(defaults, table), key)
    warning = str(caught.pop().message)
    assert not caught.list
    assert warning.startswith("sealserve.toml has keys with deprecated names. Rename them:\n")
    for number, key in enumerate(VALUES, 4):
        assert f"  line {number}: kubernetes.{key} is now kubernetes.{'.'.join(MOVED[key])}" in warning.splitlines()


@pytest.mark.parametrize("name", VALUES)
def test_both_names_of_a_key_are_one_error(name: str) -> None:
    table, key = MOVED[name]
    value = written(VALUES[name])
    if table == name:  # in TOML, a name cannot be both a value and a table
        with raises(DeploymentCode.SYNTAX):
            deployment.parse(f"{MINIMAL}[kubernetes]\n{name} = {value}\n{table}.{key} = {value}\n")
        return
    with raises(DeploymentCode.INVALID_VALUE) as caught:
        deployment.parse(f"{MINIMAL}[kubernetes]\n{name} = {value}\n[kubernetes.{table}]\n{key} = {value}\n")
    old, new = f"kubernetes.{name}", f"kubernetes.{table}.{key}"
    assert caught.value.code == "deployment.invalid-value"
    assert caught.value.message == f"sealserve.toml, line 4: {old} is the former name of {new}, and the file sets both."
    assert caught.value.hint == f"Remove {old} and keep {new}."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # The key as the file writes it, and its line.
        ("cpu = 1", "line 4: kubernetes.cpu: expected text in quotation marks, got 1."),
        ('front = "haproxy"', "line 4: kubernetes.front: expected 'nginx', 'gateway-api'"),
        ("monitoring = 'yes'", "line 4: kubernetes.monitoring: expected true or false, got 'yes'."),
        ("node_selector = {sgx = 1}", "line 4: kubernetes.node_selector.sgx: expected text in quotation marks"),
        ('broker_naming = "coredns-hosts"',
         "line 4: kubernetes.broker: naming = 'coredns-hosts' requires kubernetes.broker.ip"),
        # A former key next to a value in the place of its table.
        ('store = "x"\nstorage_class = "nfs"', "line 4: kubernetes.store: expected a table, got 'x'."),
        ('cpu = "1"\n[[kubernetes.resources]]\ncpu = "2"', "line 5: kubernetes.resources: expected a table"),
        ("[[kubernetes.monitoring]]\nenabled = true", "line 4: kubernetes.monitoring: expected a table"),
    ],
)  # fmt: skip
def test_errors_of_former_keys(text: str, message: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE) as caught:
        deployment.parse(f"{MINIMAL}[kubernetes]\n{text}\n")
    assert caught.value.message.startswith(f"sealserve.toml, {message}")


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ('[kubernetes]\nmemroy = "1Gi"', "kubernetes.memroy", "'kubernetes.resources.memory'?"),
        ('[kubernetes]\nbroker_nameing = "dns"', "kubernetes.broker_nameing", "'kubernetes.broker.naming'?"),
        ('[kubernetes]\nnamespac = "x"', "kubernetes.namespac", "'kubernetes.namespace'?"),
        ('[kubernetes.resource]\ncpu = "1"', "kubernetes.resource", "'kubernetes.resources'?"),
        ('[kubernetes.resources]\nmemroy = "1Gi"', "kubernetes.resources.memroy", "'kubernetes.resources.memory'?"),
        ("[kubernetes.resources]\nq = 1", "kubernetes.resources.q",
         "Use a key of this table: cpu, memory, epc, epc_resource, enclave_resource."),
    ],
)  # fmt: skip
def test_the_nearest_key_of_a_nested_table(text: str, key: str, hint: str) -> None:
    with raises(DeploymentCode.UNKNOWN_KEY, match="unknown key") as caught:
        deployment.parse(f"{MINIMAL}{text}\n")
    assert repr(key) in caught.value.message
    assert caught.value.hint in {hint, f"Did you mean {hint}"}


def test_a_new_file_has_every_table_and_no_former_key() -> None:
    text = deployment.write_example({"model": {"name": "m"}})
    deployment.parse(text)
    tables = {name for name, field in fields_of(KubernetesSection).items() if section_of(field) is not None}
    assert tables == {table for table, _ in MOVED.values()}
    for table in tables:
        assert f"\n[kubernetes.{table}]  # " in text


def test_a_key_that_has_no_default_shows_what_it_takes() -> None:
    lines = deployment.write_example({"model": {"name": "m"}}).splitlines()
    unset = [line[2:].split("  # ")[0] for line in lines if line.startswith("# ") and " = " in line.split("  # ")[0]]
    numbers = {line.removesuffix(" = NUMBER") for line in unset if line.endswith(" = NUMBER")}
    assert numbers == {
        "keys_per_platform", "results_per_platform", "metrics_port", "admin_port", "max_replicas", "node_port",
        "rest_node_port",
    }  # fmt: skip
    assert all(line.endswith((' = "..."', " = NUMBER")) for line in unset)


def test_unknown_settings_in_the_example_are_rejected_when_it_is_read() -> None:
    text = deployment.write_example({"model": {"name": "m"}, "kubernetes": {"resources": {"memroy": "1Gi"}}})
    with raises(DeploymentCode.UNKNOWN_KEY, match=r"kubernetes\.resources\.memroy"):
        deployment.parse(text)
