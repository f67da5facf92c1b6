"""Rendered objects: every object fits the API's schema, and every pod is restricted."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
from tests.unit.cluster.kubernetes.conftest import TOML, WITH_REST, make_context

from sealserve import deployment
from sealserve.clouds.catalog import deployment_settings, preset_of
from sealserve.cluster.kubernetes.objects import namespace, objects
from sealserve.cluster.kubernetes.render_context import NotRenderableError, RenderContext, label_value, quantity
from sealserve.terms import Cloud

VARIANTS = {
    "plain": "",
    "scaled": 'autoscaler.max_replicas = 8\nautoscaler.latency_metric = "latency"\n',
    "copied": "",
    "exposed": 'service.type = "NodePort"\nservice.node_port = 30500\nservice.proxy_protocol = true\n',
    "retired": 'ingress.kind = "ingress-nginx"\n',
    "named": 'broker.naming = "external-name"\nbroker.external_name = "broker.example.com"\n',
    "stored": 'store.storage_class = "nfs"\n',
    "both families": 'ip_families = ["IPv6", "IPv4"]\n',
    "openshift": 'run_as_user = "platform"\ndns.port = 5353\ndns.namespace = "openshift-dns"\n',
    "with REST": 'service.type = "NodePort"\nservice.node_port = 30500\nservice.rest_node_port = 30501\n',
    "placed": 'images.pull_secret = "pull"\n'
    '[kubernetes.scheduling]\ntolerations = ["sgx"]\nnode_selector = { "example.com/sgx" = "true" }\n',
}
KNOWN_ELSEWHERE = {"TLSRoute", "TransportServer", "PrometheusRule", "PodMonitor"}


def pods(made: list[Any]) -> Iterator[dict[str, Any]]:
    for item in made:
        if item["kind"] in {"Deployment", "DaemonSet"}:
            yield item["spec"]["template"]["spec"]


def all_of(context: RenderContext) -> list[Any]:
    return [namespace(context), *objects(context, platform_files={"key": "AAAA"})]


def replica_pod(context: RenderContext) -> dict[str, Any]:
    return next(pods([item for item in objects(context) if item["metadata"]["name"] == "sealserve-replicas"]))


@pytest.mark.parametrize("version", ["1.30.0", "1.37.0"])
@pytest.mark.parametrize("platform", ["simulated", "sgx"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_object_fits_the_schema(name: str, platform: str, version: str) -> None:
    toml = TOML
    if name == "stored":
        toml = TOML.replace("https://store.example.com:8443/{release}.tar", "claim:releases")
    if name == "with REST":
        toml = WITH_REST
    if name == "copied":
        toml = TOML.replace("https://store.example.com:8443/{release}.tar", "image:registry.example.com/bundle:1")
    for item in all_of(make_context(VARIANTS[name], platform=platform, toml=toml)):
        if item["kind"] not in KNOWN_ELSEWHERE:
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("platform", ["simulated", "sgx"])
def test_every_container_is_confined(platform: str) -> None:
    for pod in pods(all_of(make_context(platform=platform))):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod)
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["privileged"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"]["drop"] == ["ALL"]
            stands_for_hardware = container["name"] == "folder"
            assert ("add" in security["capabilities"]) is stands_for_hardware


def test_the_only_host_path_of_a_replica_is_the_folder_of_the_quoting_socket() -> None:
    for platform, folder in (("sgx", "/var/run/aesmd"), ("simulated", "/run/sealserve-simulated")):
        volumes = replica_pod(make_context(platform=platform))["volumes"]
        assert [volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume] == [folder]


def test_a_replica_on_sgx_asks_for_its_enclaves_epc() -> None:
    resources = replica_pod(make_context(platform="sgx"))["containers"][0]["resources"]
    assert resources["limits"]["sgx.intel.com/epc"] == str(4 * 2**30)
    assert resources["limits"]["sgx.intel.com/enclave"] == "1"


def test_a_cloud_may_call_epc_something_else() -> None:
    text = (
        '[kubernetes.resources]\nepc_resource = "alibabacloud.com/sgx_epc_MiB"\nenclave_resource = ""\nepc = "4096"\n'
    )
    limits = replica_pod(make_context(text, platform="sgx"))["containers"][0]["resources"]["limits"]
    assert limits["alibabacloud.com/sgx_epc_MiB"] == "4096"
    assert set(limits) == {"memory", "alibabacloud.com/sgx_epc_MiB"}


@pytest.mark.parametrize("cloud", list(Cloud))
def test_a_replica_asks_as_its_clouds_plugin_counts(cloud: Cloud) -> None:
    known = preset_of(cloud).kubernetes
    settings = deployment_settings(preset_of(cloud))
    settings["kubernetes"]["store"]["source"] = "claim:releases"
    described = deployment.parse(deployment.write_example({**settings, "model": {"name": "m"}}))
    context = replace(make_context(platform="sgx"), deployment=described)
    limits = replica_pod(context)["containers"][0]["resources"]["limits"]
    assert int(limits[known.epc_resource.value]) * known.epc_unit == 4 * 2**30
    assert set(limits) == {"memory", known.epc_resource.value, *known.device_resources.value}


def test_a_pod_waits_longer_than_a_connection_lives() -> None:
    context = make_context(toml=TOML.replace("[kubernetes]", "[server]\nmax_connection_age_seconds = 30\n[kubernetes]"))
    pod = replica_pod(context)
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "78"]  # at most 33, plus 45
    assert pod["terminationGracePeriodSeconds"] > 78


def test_probes_wait_for_a_slow_start(context: RenderContext) -> None:
    container = replica_pod(context)["containers"][0]
    startup = container["startupProbe"]
    assert startup["tcpSocket"] == {"port": 8500}
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 900


def test_the_release_is_verified_before_the_enclave_starts(context: RenderContext) -> None:
    first = replica_pod(context)["initContainers"][0]
    assert first["args"][:3] == ["release", "fetch", "https://store.example.com:8443/resnet50-0123456789ab.tar"]
    claimed = make_context(toml=TOML.replace("https://store.example.com:8443/{release}.tar", "claim:releases"))
    assert replica_pod(claimed)["initContainers"][0]["args"][:3] == ["release", "verify", "resnet50-0123456789ab"]


def test_a_deployment_without_a_source_says_what_to_do() -> None:
    context = make_context(toml=TOML.replace('store.source = "https://store.example.com:8443/{release}.tar"', ""))
    with pytest.raises(NotRenderableError, match=r"kubernetes\.store\.source must be.*release pack"):
        objects(context)


def test_nothing_secret_is_rendered(context: RenderContext) -> None:
    kinds = [item["kind"] for item in objects(context)]
    assert "Secret" not in kinds


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4Gi", 2**32), ("100m", 1), ("1500m", 2), ("1.5k", 1500), ("7", 7), ("1e3", 1000), ("12E2", 1200),
        (".5Ki", 512), ("2Pi", 2**51), ("1Ei", 2**60), ("3E", 3 * 10**18), ("5n", 1),
        ("9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_a_quantity_is_a_number(text: str, number: int) -> None:
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "-1", "4 Gi", "1e", "1e3Gi", "1K", "Gi", "."])
def test_invalid_quantities_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="not a Kubernetes quantity"):
        quantity(text)


def test_a_long_name_is_a_label_of_63_characters() -> None:
    assert label_value("a/b") == "a-b"
    assert len(label_value("x" * 100)) <= 63
    assert label_value("x" * 100) != label_value("x" * 101)


def test_user_and_group_are_the_images_a_number_or_the_platforms() -> None:
    ids = ("runAsUser", "runAsGroup", "fsGroup")
    for text, expected in (("", 65532), ("run_as_user = 1000\n", 1000), ('run_as_user = "platform"\n', None)):
        made = [pod for pod in pods(all_of(make_context(text))) if pod["containers"][0]["name"] != "platform"]
        assert len(made) >= 2
        for pod in made:
            security = pod["securityContext"]
            assert security["runAsNonRoot"] is True
            assert [security.get(key) for key in ids] == [expected] * 3


def test_services_have_the_ip_families_that_are_asked_for() -> None:
    def families(text: str) -> list[tuple[Any, Any]]:
        made = [item for item in all_of(make_context(text)) if item["kind"] == "Service"]
        assert len(made) == 2
        return [(item["spec"].get("ipFamilyPolicy"), item["spec"].get("ipFamilies")) for item in made]

    assert families("") == [(None, None)] * 2
    assert families('ip_families = ["IPv6"]\n') == [("SingleStack", ["IPv6"])] * 2
    assert families('ip_families = ["IPv6", "IPv4"]\n') == [("RequireDualStack", ["IPv6", "IPv4"])] * 2


def test_the_front_listens_for_both_ip_families_unless_the_node_lacks_ipv6(context: RenderContext) -> None:
    made = objects(context)
    (config,) = [item for item in made if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "sealserve-front"]
    assert "listen [::]:8500 ipv6only=off so_keepalive=on;" in config["data"]["nginx.conf"]
    assert "listen 0.0.0.0:8500 so_keepalive=on;" in config["data"]["nginx-ipv4.conf"]
    (pod,) = [pod for pod in pods(list(made)) if pod["containers"][0]["name"] == "nginx"]
    script = pod["containers"][0]["command"][-1]
    assert "exec /usr/sbin/nginx" in script  # so that NGINX itself receives the signals


def test_rest_has_a_port_of_replicas_and_front_and_a_route_to_it() -> None:
    context = make_context("service.rest_node_port = 30501\n", toml=WITH_REST)
    made = objects(context)
    services = {item["metadata"]["name"]: item["spec"]["ports"] for item in made if item["kind"] == "Service"}
    assert [(port["name"], port["port"], port["targetPort"]) for port in services["sealserve-replicas"]] == [
        ("grpc", 8500, "grpc"),
        ("rest", 8501, "rest"),  # by name: pods of other releases without this port get no connections
    ]
    assert services["sealserve-front"] == [
        {"name": "grpc", "port": 8500, "targetPort": "grpc"},
        {"name": "rest", "port": 9501, "targetPort": "rest", "nodePort": 30501},
    ]
    for item in made:
        if item["kind"] == "Deployment":
            (container,) = item["spec"]["template"]["spec"]["containers"]
            assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"grpc": 8500, "rest": 8501}
    (config,) = [item for item in made if item["kind"] == "ConfigMap" and "nginx.conf" in item["data"]]
    for text in config["data"].values():
        assert text.count("server sealserve-replicas:8501 ") == text.count("server sealserve-replicas:8500 ") == 3


def test_without_rest_nothing_names_its_port() -> None:
    assert "8501" not in str(objects(make_context()))


def test_the_release_decides_about_rest_and_not_the_setting() -> None:
    """After a roll-back to a release without REST, REST may still be on in sealserve.toml."""
    context = make_context(toml=WITH_REST)
    assert "8501" not in str(objects(replace(context, shipped=replace(context.shipped, rest=False))))


@pytest.mark.parametrize("kind", ["ingress-nginx", "f5"])
def test_rest_needs_a_controller_with_two_ports(kind: str) -> None:
    with pytest.raises(NotRenderableError, match="passes TLS through on a single port") as caught:
        objects(make_context(f'ingress.kind = "{kind}"\n', toml=WITH_REST))
    assert caught.value.hint is not None
    assert "gateway-api" in caught.value.hint


def test_a_gateway_tells_grpc_and_rest_apart_by_its_port() -> None:
    made = objects(make_context('ingress.kind = "gateway-api"\ningress.gateway = "infra/public"\n', toml=WITH_REST))
    routes = [item for item in made if item["kind"] == "TLSRoute"]
    assert [route["metadata"]["name"] for route in routes] == ["sealserve-front", "sealserve-front-rest"]
    found = {
        route["spec"]["parentRefs"][0]["port"]: route["spec"]["rules"][0]["backendRefs"][0]["port"] for route in routes
    }
    assert found == {8500: 8500, 9501: 8501}
    assert {tuple(route["spec"]["hostnames"]) for route in routes} == {("grpc.example.com",)}
