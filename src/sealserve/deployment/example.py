"""Writing a commented ``sealserve.toml``."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sealserve.deployment.section import Section, fields_of, section_of
from sealserve.deployment.whole import Deployment


def suggest_name(model: Path) -> str:
    """Return a servable's name for the model at ``model``: its file's, with what no name may have replaced.

    A folder that is named like a version has its parent's name, as in ``resnet50/1``.
    """
    path = model.resolve()
    if path.name.isdecimal() and path.parent.name:
        path = path.parent
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:63].strip("._-")
    return name or "model"


def write_example(settings: Mapping[str, Any], *, heading: str = "What sealserve deploys.") -> str:
    """Return a commented ``sealserve.toml``: every key with what it means.

    Args:
        settings: What differs from the defaults: values by key, those of a section in a mapping of their own, those of
            several models in a list of mappings. Nothing is checked; `parse` does that.
        heading: The first line's comment.
    """
    lines = [f"# {heading} Every key but model.name may be left out.", ""]
    for name, field in fields_of(Deployment).items():
        section = section_of(field)
        if not issubclass(section, Section):
            lines += [f"{name} = {_toml(settings.get(name, field.default))}  # {field.description}", ""]
            continue
        given = settings.get(name, {})
        several = isinstance(given, Sequence)
        for values in given if several else (given,):
            lines.append(f"{f'[[{name}]]' if several else f'[{name}]'}  # {_first_sentence(section)}")
            for key, sub in section.model_fields.items():
                value = values.get(key, None if sub.is_required() else sub.default)
                text = f'# {key} = "..."' if value is None else f"{key} = {_toml(value)}"
                lines.append(f"{text}  # {sub.description}")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _first_sentence(section: type[BaseModel]) -> str:
    text = (section.__doc__ or "").strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)
