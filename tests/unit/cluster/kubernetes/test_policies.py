"""Connections that the NetworkPolicies allow, decided by an evaluator of the API's rules."""

import pytest
from tests.unit.cluster.kubernetes.conftest import TOML, WITH_REST, make_context
from tests.unit.cluster.kubernetes.policy_evaluator import Peer, allows

from sealserve.cluster.kubernetes.policies import policies
from sealserve.cluster.kubernetes.render_context import RenderContext

OUTSIDE = Peer(address="198.51.100.7")
BROKER = Peer(address="192.0.2.44")
NEIGHBOUR = Peer(labels={"app": "other"}, namespace="sealserve", address="10.1.0.9")
STRANGER = Peer(labels={"app.kubernetes.io/component": "front"}, namespace="elsewhere", address="10.1.0.10")
DNS = Peer(labels={"k8s-app": "kube-dns"}, namespace="kube-system", address="10.1.0.2")
CONTROLLER = Peer(labels={"app": "controller"}, namespace="ingress-nginx", address="10.1.0.3")


def pod(context: RenderContext, part: str) -> Peer:
    return Peer(labels=context.labels(part), namespace=context.settings.namespace, address="10.1.0.20")


@pytest.fixture
def known() -> RenderContext:
    return make_context('broker.ip = "192.0.2.44"\n')


def test_only_the_front_reaches_the_replicas(known: RenderContext) -> None:
    rules, replica = policies(known), pod(known, "replicas")
    assert allows(rules, pod(known, "front"), replica, 8500)
    for other in (OUTSIDE, NEIGHBOUR, STRANGER, CONTROLLER, replica, DNS):
        assert not allows(rules, other, replica, 8500)
    for port in (8501, 22, 9090):
        assert not allows(rules, pod(known, "front"), replica, port)


def test_everybody_reaches_the_front_at_its_port_alone(known: RenderContext) -> None:
    rules, front = policies(known), pod(known, "front")
    assert allows(rules, OUTSIDE, front, 8500)
    for port in (80, 8501):
        assert not allows(rules, OUTSIDE, front, port)


def test_rest_is_reached_as_grpc_is_and_only_where_it_is_on() -> None:
    context = make_context(toml=WITH_REST)
    rules, replica, front = policies(context), pod(context, "replicas"), pod(context, "front")
    for port in (8500, 8501):
        assert allows(rules, OUTSIDE, front, port)
        assert allows(rules, front, replica, port)
        for other in (OUTSIDE, NEIGHBOUR, STRANGER, CONTROLLER, replica, DNS):
            assert not allows(rules, other, replica, port)
    assert not allows(rules, OUTSIDE, front, 9501)  # this is the Service's port, not the pod's port
    gateway = make_context('ingress.kind = "gateway-api"\n', toml=WITH_REST)
    assert allows(policies(gateway), CONTROLLER, pod(gateway, "replicas"), 8501)


def test_a_replica_reaches_broker_dns_and_store_and_nothing_else(known: RenderContext) -> None:
    rules, replica = policies(known), pod(known, "replicas")
    assert allows(rules, replica, BROKER, 4433)
    assert allows(rules, replica, DNS, 53, "UDP")
    assert allows(rules, replica, DNS, 53)
    assert allows(rules, replica, OUTSIDE, 8443)  # the store has a DNS name, which a policy cannot contain
    for target, port in ((OUTSIDE, 4433), (BROKER, 443), (OUTSIDE, 443), (NEIGHBOUR, 53), (pod(known, "front"), 8500)):
        assert not allows(rules, replica, target, port)


def test_the_front_reaches_replicas_and_dns_and_nothing_else(known: RenderContext) -> None:
    rules, front = policies(known), pod(known, "front")
    assert allows(rules, front, DNS, 53, "UDP")
    for target, port in ((OUTSIDE, 443), (BROKER, 4433), (NEIGHBOUR, 8500)):
        assert not allows(rules, front, target, port)


def test_a_store_with_an_ip_address_is_the_only_allowed_store() -> None:
    context = make_context(toml=TOML.replace("store.example.com:8443", "198.51.100.7:8443"))
    rules, replica = policies(context), pod(context, "replicas")
    assert allows(rules, replica, OUTSIDE, 8443)
    assert not allows(rules, replica, BROKER, 8443)
    claimed = make_context(toml=TOML.replace("https://store.example.com:8443/{release}.tar", "claim:releases"))
    assert not allows(policies(claimed), pod(claimed, "replicas"), OUTSIDE, 8443)


def test_an_existing_controller_takes_the_fronts_place() -> None:
    context = make_context('ingress.kind = "f5"\ningress.controller_namespace = "ingress-nginx"\n')
    rules, replica = policies(context), pod(context, "replicas")
    assert allows(rules, CONTROLLER, replica, 8500)
    assert not allows(rules, STRANGER, replica, 8500)


def test_without_the_policies_everything_is_open(known: RenderContext) -> None:
    assert allows([], OUTSIDE, pod(known, "replicas"), 22)


def test_the_clusters_dns_may_have_other_labels_and_ports() -> None:
    context = make_context(
        'dns.namespace = "openshift-dns"\ndns.port = 5353\n'
        'dns.labels = { "dns.operator.openshift.io/daemonset-dns" = "default" }\n'
    )
    rules, replica = policies(context), pod(context, "replicas")
    labels = {"dns.operator.openshift.io/daemonset-dns": "default"}
    openshift = Peer(labels=labels, namespace="openshift-dns", address="10.1.0.2")
    for protocol in ("UDP", "TCP"):
        assert allows(rules, replica, openshift, 5353, protocol)
        assert not allows(rules, replica, openshift, 53, protocol)
        assert not allows(rules, replica, DNS, 53, protocol)


@pytest.mark.parametrize("cache", ["169.254.20.10", "fd00::a"])
def test_a_dns_cache_on_each_node_is_reached_at_its_address(cache: str) -> None:
    context = make_context(f'dns.addresses = ["{cache}"]\n')
    rules = policies(context)
    for part in ("replicas", "front"):
        assert allows(rules, pod(context, part), Peer(address=cache), 53, "UDP")
        assert allows(rules, pod(context, part), DNS, 53)
        assert not allows(rules, pod(context, part), Peer(address=cache), 80)
        assert not allows(rules, pod(context, part), OUTSIDE, 53, "UDP")


def test_a_store_with_a_name_may_be_bound_to_networks() -> None:
    context = make_context('store.addresses = ["198.51.100.0/24", "2001:db8::/32"]\n')
    rules, replica = policies(context), pod(context, "replicas")
    assert allows(rules, replica, OUTSIDE, 8443)
    assert allows(rules, replica, Peer(address="2001:db8::7"), 8443)
    assert not allows(rules, replica, BROKER, 8443)


def test_a_broker_with_an_ipv6_address_is_the_only_allowed_broker() -> None:
    context = make_context('broker.ip = "2001:db8::44"\n')
    rules, replica = policies(context), pod(context, "replicas")
    assert allows(rules, replica, Peer(address="2001:db8::44"), 4433)
    assert not allows(rules, replica, Peer(address="2001:db8::45"), 4433)
    assert not allows(rules, replica, BROKER, 4433)


@pytest.mark.parametrize(("host", "elsewhere"), [("collector.example.com", True), ("198.51.100.7", False)])
def test_a_replica_reaches_its_trace_collector(host: str, elsewhere: bool) -> None:
    context = make_context(toml=TOML.replace("[service]", f'[server.traces]\nendpoint = "https://{host}"\n\n[service]'))
    rules, replica = policies(context), pod(context, "replicas")
    assert allows(rules, replica, OUTSIDE, 4317)
    assert allows(rules, replica, BROKER, 4317) is elsewhere  # a policy cannot contain a DNS name
    assert not allows(rules, pod(context, "front"), OUTSIDE, 4317)
    assert not allows(rules, OUTSIDE, replica, 4317)
