"""Capacity for replicas: per node, in the units of the cloud's plugin."""

from collections.abc import Mapping

import pytest
from tests.unit.cluster.kubernetes.conftest import TOML, make_context, node

from sealserve.cluster.kubernetes.capacity import epc_of_replica, fitting_replicas, may_run
from sealserve.cluster.kubernetes.render_context import Manifest, RenderContext

ALIBABA = TOML.replace("[kubernetes]", '[target]\ncloud = "alibaba-g7t"\n[kubernetes]')


def fitting(context: RenderContext, nodes: list[Manifest]) -> Mapping[str, int]:
    asked = epc_of_replica(context)
    assert asked is not None
    return fitting_replicas(asked, context.settings, nodes)


def test_each_node_holds_whole_replicas() -> None:
    nodes = [node("a", epc="16Gi"), node("b", epc="10Gi"), node("c", epc="3Gi"), node("d")]
    assert fitting(make_context(platform="sgx"), nodes) == {"a": 4, "b": 2, "c": 0, "d": 0}


def test_simulated_replicas_ask_for_nothing() -> None:
    assert epc_of_replica(make_context()) is None
    assert fitting_replicas("0", make_context().settings, [node("a", epc="16Gi")]) == {}


def test_a_clouds_plugin_counts_in_mebibytes() -> None:
    context = make_context('resources.epc_resource = "alibabacloud.com/sgx_epc_MiB"\n', platform="sgx", toml=ALIBABA)
    assert epc_of_replica(context) == "4096"
    offered = {"metadata": {"name": "a"}, "status": {"allocatable": {"alibabacloud.com/sgx_epc_MiB": "16384"}}}
    assert fitting(context, [offered]) == {"a": 4}
    with_intels_plugin = make_context(platform="sgx", toml=ALIBABA)
    assert epc_of_replica(with_intels_plugin) == str(4 * 2**30)


@pytest.mark.parametrize(("text", "runs"), [("", False), ('scheduling.tolerations = ["sgx"]\n', True)])
def test_a_taint_keeps_replicas_away_that_do_not_tolerate_it(text: str, runs: bool) -> None:
    assert may_run(node("a", taint="sgx"), make_context(text).settings) is runs


def test_temporary_taints_of_a_node_are_ignored() -> None:
    assert may_run(node("a", taint="node.kubernetes.io/not-ready"), make_context().settings)


def test_a_node_has_the_labels_that_are_selected() -> None:
    settings = make_context('scheduling.node_selector = { "pool" = "sgx" }\n').settings
    assert may_run(node("a", pool="sgx"), settings)
    assert not may_run(node("a", pool="other"), settings)
    assert not may_run(node("a"), settings)
