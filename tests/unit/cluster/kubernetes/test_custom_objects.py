"""Objects for other controllers are validated strictly against published schemas: an unknown field is an error.

The schemas in ``crds/`` are from the named commits, without descriptions and CEL rules (Apache License 2.0). CEL rules
are not checked here.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.unit.cluster.kubernetes.conftest import TOML, WITH_REST, make_context

from sealserve.cluster.kubernetes.objects import objects
from sealserve.cluster.kubernetes.render_context import RenderContext

CRDS = Path(__file__).with_name("crds")
MONITORED = TOML.replace("[kubernetes]", "[server]\nmetrics_port = 9464\n[kubernetes]\nmonitoring.enabled = true")


def strict(schema: Any) -> Any:
    """Return a schema that rejects unknown fields, like an API server with strict validation."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in made and not isinstance(made["properties"].get("type"), str) and made.get("type") == "object":
        made.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    return made


def validate(made: Mapping[str, Any], name: str) -> None:
    """Validate an object against a published schema."""
    crd = json.loads((CRDS / f"{name}.json").read_text(encoding="utf-8"))
    group, _, version = made["apiVersion"].partition("/")
    assert (group, made["kind"]) == (crd["group"], crd["kind"])
    schema = strict(crd["versions"][version])
    schema["properties"]["metadata"] = {"type": "object"}  # the API's own, which `kubernetes_validate` knows
    jsonschema.Draft202012Validator(schema).validate(made)


def only(context: RenderContext, kind: str) -> dict[str, Any]:
    (found,) = [item for item in objects(context) if item["kind"] == kind]
    return found


CASES = [
    ("TLSRoute", "tlsroute-standard", 'ingress.kind = "gateway-api"\ningress.gateway = "infra/public"\n', TOML),
    ("TLSRoute", "tlsroute-experimental", 'ingress.kind = "gateway-api"\n', TOML),
    ("TLSRoute", "tlsroute-experimental",
     'ingress.kind = "gateway-api"\ningress.tls_route_version = "gateway.networking.k8s.io/v1alpha2"\n', TOML),
    ("TransportServer", "transportserver", 'ingress.kind = "f5"\n', TOML),
    ("PodMonitor", "podmonitor", "", MONITORED),
    ("PodMonitor", "podmonitor", "", MONITORED.replace("[service]", '[service]\ntls = "one-way"')),
    ("PrometheusRule", "prometheusrule", "", MONITORED),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "crd", "text", "toml"), CASES)
def test_it_fits_the_published_schema(kind: str, crd: str, text: str, toml: str) -> None:
    validate(only(make_context(text, toml=toml), kind), crd)


@pytest.mark.parametrize("crd", ["tlsroute-standard", "tlsroute-experimental"])
def test_the_routes_of_grpc_and_rest_fit_the_published_schema(crd: str) -> None:
    made = objects(make_context('ingress.kind = "gateway-api"\n', toml=WITH_REST))
    routes = [item for item in made if item["kind"] == "TLSRoute"]
    assert len(routes) == 2
    for route in routes:
        validate(route, crd)


@pytest.mark.parametrize(("kind", "crd", "text", "toml"), CASES)
def test_an_unknown_field_fails(kind: str, crd: str, text: str, toml: str) -> None:
    made = deepcopy(only(make_context(text, toml=toml), kind))
    made["spec"]["unknown"] = 1
    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        validate(made, crd)


def test_a_version_that_the_standard_channel_no_longer_serves_is_not_the_default() -> None:
    crd = json.loads((CRDS / "tlsroute-standard.json").read_text(encoding="utf-8"))
    assert list(crd["versions"]) == ["v1"]
    assert (
        only(make_context('ingress.kind = "gateway-api"\n'), "TLSRoute")["apiVersion"] == "gateway.networking.k8s.io/v1"
    )


@pytest.mark.parametrize("kind", ["TLSRoute", "TransportServer"])
def test_a_wrong_type_fails(kind: str) -> None:
    text, crd = {"TLSRoute": ("gateway-api", "tlsroute-standard"), "TransportServer": ("f5", "transportserver")}[kind]
    made = deepcopy(only(make_context(f'ingress.kind = "{text}"\n'), kind))
    backends = made["spec"]["upstreams"] if kind == "TransportServer" else made["spec"]["rules"][0]["backendRefs"]
    backends[0]["port"] = "8500"
    with pytest.raises(jsonschema.ValidationError, match="'8500'"):
        validate(made, crd)
