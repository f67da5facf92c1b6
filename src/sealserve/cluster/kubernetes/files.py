"""The rendered objects as files: YAML with a kustomization, or a Helm chart.

Both contain exactly the objects that `up` applies. The chart's templates are these objects. A few values that are not
measured and may differ between clusters come from ``values.yaml``.

Source: https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/, https://helm.sh/docs/topics/charts/.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from sealserve import __version__
from sealserve.cluster.kubernetes import front, replicas
from sealserve.cluster.kubernetes.objects import namespace
from sealserve.cluster.kubernetes.render_context import APPLICATION, Manifest, RenderContext

_MARK: Final = "sealserve-value-of-"
_HEADING: Final = "# Written by `sealserve render kubernetes`.\n"


def kustomization(context: RenderContext, objects: Sequence[Manifest]) -> Mapping[str, str]:
    """Return the files of a kustomization, by name: one file for each object."""
    files = {_file(made): _yaml(made) for made in [namespace(context), *objects]}
    described = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(files)}
    return {**files, "kustomization.yaml": _yaml(described)}


def documents(context: RenderContext, objects: Sequence[Manifest]) -> str:
    """Return all objects as one text, for `kubectl apply --filename -`."""
    return "---\n".join(_yaml(made) for made in [namespace(context), *objects])


def chart(context: RenderContext, objects: Sequence[Manifest]) -> Mapping[str, str]:
    """Return the files of a Helm chart, by path. Helm sets the namespace (`--namespace`, `--create-namespace`)."""
    described = {
        "apiVersion": "v2",
        "name": APPLICATION,
        "description": "TensorFlow models in attested enclaves, sealed from the machines that serve them",
        "type": "application",
        "version": __version__,
        "appVersion": context.shipped.name,
    }
    values = {
        "replicas": context.replicas,
        "frontReplicas": context.settings.ingress.replicas,
        "serverImage": context.server_image,
        "pullPolicy": context.settings.images.pull_policy,
        "serviceType": context.settings.service.type,
    }
    files = {f"templates/{_file(made)}": _template(context, made) for made in objects}
    return {"Chart.yaml": _yaml(described), "values.yaml": _yaml(values), **files}


def _template(context: RenderContext, made: Manifest) -> str:
    """Return an object as a template. Braces in the object are escaped, and placeholders are inserted for values."""
    values = {
        ("namespace", context.settings.namespace): ".Release.Namespace",
        ("image", context.server_image): ".Values.serverImage",
        ("imagePullPolicy", context.settings.images.pull_policy): ".Values.pullPolicy",
    }
    filled = _fill(made, values)
    if made["kind"] == "Deployment":
        names = {context.name(replicas.PART): ".Values.replicas", context.name(front.PART): ".Values.frontReplicas"}
        filled["spec"]["replicas"] = _mark(names[made["metadata"]["name"]])
    if made["kind"] == "Service" and made["metadata"]["name"] == context.name(front.PART):
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
    """Write multi-line texts as blocks, and repeated values in full, because YAML's references confuse readers."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # the signature is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
