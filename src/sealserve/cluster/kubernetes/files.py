"""The rendered objects as files: YAML with a kustomization, or a Helm chart.

Both have the very objects that `up` applies. A chart's templates are these objects, with the few values that are not
measured and may differ between clusters taken from ``values.yaml``.

Source: https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/, https://helm.sh/docs/topics/charts/.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from sealserve import __version__
from sealserve.cluster.kubernetes import front, replicas
from sealserve.cluster.kubernetes.objects import namespace
from sealserve.cluster.kubernetes.plan import APPLICATION, Manifest, Plan

_MARK: Final = "sealserve-value-of-"
_HEADING: Final = "# Written by `sealserve render kubernetes`.\n"


def kustomization(plan: Plan, objects: Sequence[Manifest]) -> Mapping[str, str]:
    """Return the files of a kustomization, by name: one for each object."""
    files = {_file(made): _yaml(made) for made in [namespace(plan), *objects]}
    described = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(files)}
    return {**files, "kustomization.yaml": _yaml(described)}


def documents(plan: Plan, objects: Sequence[Manifest]) -> str:
    """Return all objects as one text, for `kubectl apply --filename -`."""
    return "---\n".join(_yaml(made) for made in [namespace(plan), *objects])


def chart(plan: Plan, objects: Sequence[Manifest]) -> Mapping[str, str]:
    """Return the files of a Helm chart, by path. The namespace is helm's (`--namespace`, `--create-namespace`)."""
    described = {
        "apiVersion": "v2",
        "name": APPLICATION,
        "description": "TensorFlow models in attested enclaves, sealed from the machines that serve them",
        "type": "application",
        "version": __version__,
        "appVersion": plan.shipped.name,
    }
    values = {
        "replicas": plan.replicas,
        "frontReplicas": plan.settings.ingress.replicas,
        "serverImage": plan.server_image,
        "pullPolicy": plan.settings.images.pull_policy,
        "serviceType": plan.settings.service.type,
    }
    files = {f"templates/{_file(made)}": _template(plan, made) for made in objects}
    return {"Chart.yaml": _yaml(described), "values.yaml": _yaml(values), **files}


def _template(plan: Plan, made: Manifest) -> str:
    """Return an object as a template: braces of its own are kept from Helm, and the values' places are marked."""
    values = {
        ("namespace", plan.settings.namespace): ".Release.Namespace",
        ("image", plan.server_image): ".Values.serverImage",
        ("imagePullPolicy", plan.settings.images.pull_policy): ".Values.pullPolicy",
    }
    filled = _fill(made, values)
    if made["kind"] == "Deployment":
        names = {plan.name(replicas.PART): ".Values.replicas", plan.name(front.PART): ".Values.frontReplicas"}
        filled["spec"]["replicas"] = _mark(names[made["metadata"]["name"]])
    if made["kind"] == "Service" and made["metadata"]["name"] == plan.name(front.PART):
        filled["spec"]["type"] = _mark(".Values.serviceType")
    text = _yaml(filled).replace("{{", "{{ `{{` }}")
    return re.sub(rf"{_MARK}(\S+)", r"{{ \1 }}", text)


def _mark(expression: str) -> str:
    return f"{_MARK}{expression}"


def _fill(value: Any, values: Mapping[tuple[str, str], str], key: str = "") -> Any:
    match value:
        case dict():
            return {name: _fill(inner, values, name) for name, inner in value.items()}
        case list():
            return [_fill(inner, values) for inner in value]
        case str() if (key, value) in values:
            return _mark(values[key, value])
    return value


def _file(made: Manifest) -> str:
    return f"{made['metadata']['name']}-{made['kind'].lower()}.yaml"


def _yaml(value: Any) -> str:
    return _HEADING + yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Write texts of several lines as blocks, and the same thing twice in full: YAML's references confuse people."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # the signature is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
