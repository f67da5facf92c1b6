"""Effects of a cloud's preset on the objects: annotations of the load balancer, and the claim's storage class."""

from typing import Any

import pytest
from tests.unit.cluster.kubernetes.conftest import TOML, make_context

from sealserve.clouds.catalog import preset_of
from sealserve.cluster.kubernetes.objects import objects
from sealserve.cluster.kubernetes.render_context import NotRenderableError, RenderContext
from sealserve.terms import Cloud

SUBNET = 'service.annotations = { "service.kubernetes.io/qcloud-loadbalancer-internal-subnetid" = "subnet-1" }\n'
CLAIM = "claim:releases"


def in_cloud(cloud: str, text: str = "", *, source: str | None = None) -> RenderContext:
    toml = TOML.replace("[kubernetes]", f'[target]\ncloud = "{cloud}"\n[kubernetes]')
    if source is not None:
        toml = toml.replace("https://store.example.com:8443/{release}.tar", source)
    return make_context(text, platform="sgx", toml=toml)


def annotations(context: RenderContext) -> dict[str, str]:
    service = next(
        made for made in objects(context) if (made["kind"], made["metadata"]["name"]) == ("Service", "sealserve-front")
    )
    found: dict[str, str] = service["metadata"].get("annotations", {})
    return found


def claims(context: RenderContext) -> list[Any]:
    return [made for made in objects(context) if made["kind"] == "PersistentVolumeClaim"]


@pytest.mark.parametrize("cloud", list(Cloud))
def test_a_load_balancer_is_public_unless_it_is_to_be_internal(cloud: Cloud) -> None:
    assert annotations(in_cloud(cloud)) == {}


@pytest.mark.parametrize(
    ("cloud", "text", "expected"),
    [
        ("alibaba-g7t", "", {"service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type": "intranet"}),
        ("azure-dcsv3", "", {"service.beta.kubernetes.io/azure-load-balancer-internal": "true"}),
        ("tencent-m6ce", SUBNET, {"service.kubernetes.io/qcloud-loadbalancer-internal-subnetid": "subnet-1"}),
    ],
)
def test_an_internal_load_balancer(cloud: str, text: str, expected: dict[str, str]) -> None:
    assert annotations(in_cloud(cloud, f"service.internal = true\n{text}")) == expected


def test_an_annotation_with_a_placeholder_requires_a_value() -> None:
    with pytest.raises(
        NotRenderableError, match=r"requires your subnet.*qcloud-loadbalancer-internal-subnetid"
    ) as caught:
        objects(in_cloud("tencent-m6ce", "service.internal = true\n"))
    assert caught.value.code == "kubernetes.not-renderable"


def test_an_internal_load_balancer_requires_a_cloud() -> None:
    with pytest.raises(NotRenderableError, match=r"expected target\.cloud, got none"):
        objects(make_context("service.internal = true\n"))


def test_a_service_without_a_load_balancer_has_no_annotations_of_one() -> None:
    assert annotations(in_cloud("azure-dcsv3", 'service.internal = true\nservice.type = "ClusterIP"\n')) == {}


def test_the_proxy_protocol_is_turned_on_where_a_cloud_can() -> None:
    found = annotations(in_cloud("alibaba-g7t", "service.proxy_protocol = true\n"))
    assert found == {"service.beta.kubernetes.io/alibaba-cloud-loadbalancer-proxy-protocol": "on"}
    with pytest.raises(NotRenderableError, match="No annotation is known that makes the load balancer of azure-dcsv3"):
        objects(in_cloud("azure-dcsv3", "service.proxy_protocol = true\n"))
    own = 'service.proxy_protocol = true\nservice.annotations = { "service.beta.kubernetes.io/x" = "y" }\n'
    assert annotations(in_cloud("azure-dcsv3", own)) == {"service.beta.kubernetes.io/x": "y"}


def test_the_owners_own_annotations_win() -> None:
    key = "service.beta.kubernetes.io/azure-load-balancer-internal"
    text = f'service.internal = true\nservice.annotations = {{ "{key}" = "false", "a" = "b" }}\n'
    assert annotations(in_cloud("azure-dcsv3", text)) == {key: "false", "a": "b"}


def test_a_claim_is_made_of_the_class_that_is_named() -> None:
    known = preset_of(Cloud.AZURE_DCSV3).kubernetes.shared_storage_class.value
    (claim,) = claims(
        in_cloud("azure-dcsv3", f'store.storage_class = "{known}"\nstore.storage_size = "5Gi"\n', source=CLAIM)
    )
    assert claim["metadata"]["name"] == "releases"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "azurefile-csi-premium",
        "resources": {"requests": {"storage": "5Gi"}},
    }


def test_a_claim_that_is_there_already_is_left_alone() -> None:
    assert claims(in_cloud("azure-dcsv3", source=CLAIM)) == []
    assert claims(in_cloud("azure-dcsv3", 'store.storage_class = "azurefile-csi-premium"\n')) == []
