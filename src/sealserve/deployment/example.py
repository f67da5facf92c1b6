"""Writes a commented ``sealserve.toml``."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel

from sealserve.deployment.section import Section, fields_of, section_of
from sealserve.deployment.whole import Deployment
from sealserve.terms import PlatformKind, TargetKind


def suggest_name(model: Path) -> str:
    """Return a servable name for the model at ``model``: the file name, with invalid characters replaced.

    For a folder whose name is a version number, such as ``resnet50/1``, the parent's name is used.
    """
    path = model.resolve()
    if path.name.isdecimal() and path.parent.name:
        path = path.parent
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:63].strip("._-")
    return name or "model"


_ALWAYS: Final = (
    "platform", "model.name", "model.path", "model.version", "service.name", "service.tls", "service.port",
    "service.listen", "server.threads", "server.rest", "target.kind", "target.replicas",
)  # fmt: skip
_FROZEN_GRAPH: Final = ("model.inputs", "model.outputs")
_BROKER: Final = ("broker.address", "broker.listen")
_SGX: Final = (*_BROKER, "enclave.size", "tcb.preset")
_BY_TARGET: Final[Mapping[str, tuple[str, ...]]] = {
    TargetKind.LOCAL: (),
    TargetKind.DOCKER: ("images.prefix", "docker.subnet"),
    TargetKind.KUBERNETES: (
        *_BROKER, "images.prefix", "kubernetes.namespace", "kubernetes.store.source", "kubernetes.store.folder",
        "kubernetes.resources.cpu", "kubernetes.resources.memory", "kubernetes.images.inventory",
        "kubernetes.images.pull_secret", "kubernetes.ingress.kind", "kubernetes.service.type",
        "kubernetes.broker.naming", "kubernetes.broker.ip",
    ),
}  # fmt: skip
"""Keys that a user of a target is likely to change. They are in the short file."""


def write_short(settings: Mapping[str, Any]) -> str:
    """Return a short commented ``sealserve.toml`` with non-default settings and keys that users often change.

    Args:
        settings: As for `write_example`. The target, the platform and the model's file decide which keys it contains.
    """
    keys = {*_ALWAYS, *_BY_TARGET[settings.get("target", {}).get("kind", TargetKind.LOCAL)]}
    if settings.get("platform") == PlatformKind.SGX:
        keys.update(_SGX)
    if str(settings["model"].get("path", "")).endswith(".pb"):
        keys.update(_FROZEN_GRAPH)
    heading = (
        "# The deployment that sealserve runs. After a change, run `sealserve up`.\n"
        "# Settings that are not listed here have defaults. `sealserve init --full` writes all settings."
    )
    return _write(settings, heading, keys)


def write_example(settings: Mapping[str, Any], *, heading: str = "The deployment that sealserve runs.") -> str:
    """Return a commented ``sealserve.toml`` with every key and its meaning.

    Args:
        settings: Values that differ from the defaults, by key. A section is a mapping. Several models are a list of
            mappings. This function does not validate them: `parse` does, and rejects unknown keys.
        heading: Text of the comment in the first line.
    """
    return _write(settings, f"# {heading} Every key except model.name is optional.", None)


def _write(settings: Mapping[str, Any], heading: str, keys: Collection[str] | None) -> str:
    """Return the file. ``keys`` names the keys to write besides those in ``settings``. None means all keys."""
    lines = [heading, ""]
    for name, field in fields_of(Deployment).items():
        section = section_of(field)
        if section is None:
            if keys is None or name in keys or name in settings:
                lines += [f"{name} = {_toml(settings.get(name, field.default))}  # {field.description}", ""]
            continue
        given = settings.get(name, {})
        several = isinstance(given, Sequence)
        for values in given if several else (given,):
            lines += _table(f"[[{name}]]" if several else f"[{name}]", section, values, name, keys)
    return "\n".join(lines).rstrip() + "\n"


def _table(
    heading: str, section: type[Section], values: Mapping[str, Any], path: str, keys: Collection[str] | None
) -> Iterator[str]:
    """Yield the lines of a table, then the lines of its subtables: TOML requires this order."""
    lines = []
    tables = []
    for key, field in section.model_fields.items():
        if (inner := section_of(field)) is not None:
            tables.append((f"{heading[:-1]}.{key}]", inner, values.get(key, {}), f"{path}.{key}", keys))
            continue
        if keys is not None and f"{path}.{key}" not in keys and key not in values:
            continue
        value = values.get(key, None if field.is_required() else field.default)
        unset = "NUMBER" if _takes_number(field.annotation) else '"..."'
        text = f"# {key} = {unset}" if value is None else f"{key} = {_toml(value)}"
        lines.append(f"{text}  # {field.description}")
    lines += (f"{key} = {_toml(value)}" for key, value in values.items() if key not in section.model_fields)
    if lines or keys is None:
        yield from (f"{heading}  # {_first_sentence(section)}", *lines, "")
    for table in tables:
        yield from _table(*table)


def _takes_number(annotation: object) -> bool:
    """Return whether a key without a default takes a number, which TOML writes without quotation marks."""
    return any(item is int or _takes_number(item) for item in get_args(annotation))


def _first_sentence(section: type[BaseModel]) -> str:
    text = (section.__doc__ or "").strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)
