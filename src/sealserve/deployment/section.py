"""A section of ``sealserve.toml``, and its keys."""

from typing import get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """What all sections have: only known keys, and values that stay what they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def fields_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the keys of a section, as TOML has them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the class of a section, or of each of a field's sections; None for a plain value."""
    types = (field.annotation, *get_args(field.annotation))
    return next((item for item in types if isinstance(item, type) and issubclass(item, Section)), None)
