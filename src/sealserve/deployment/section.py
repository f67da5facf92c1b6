"""A section of ``sealserve.toml``, and its keys."""

from typing import Final, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

AT_KEY: Final = "at_key"
"""Type of the errors that name their key in the error context."""


class Section(BaseModel):
    """Base of all sections: rejects unknown keys, and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def at_key(key: str, message: str) -> PydanticCustomError:
    """Return the error for a validator that covers several sections and finds one invalid key.

    Args:
        key: The key, such as "target.replicas".
        message: Why its value is invalid.
    """
    return PydanticCustomError(AT_KEY, "{message}", {"message": message, "key": key})


def fields_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by the names that TOML uses."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def value_of(section: Section, name: str) -> object:
    """Return a value of a section by the name that TOML uses."""
    attributes = {field.alias: attribute for attribute, field in type(section).model_fields.items()}
    return getattr(section, attributes.get(name, name))


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the section class of a field, or of the items of a field with several sections. None for a plain value."""
    types = (field.annotation, *get_args(field.annotation))
    return next((item for item in types if isinstance(item, type) and issubclass(item, Section)), None)
