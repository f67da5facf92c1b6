"""A section of ``sealserve.toml``, and its keys."""

from typing import Final, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

AT_KEY: Final = "at_key"
"""The type of the errors whose context names the key."""


class Section(BaseModel):
    """What all sections have: only known keys, and values that stay what they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def at_key(key: str, message: str) -> PydanticCustomError:
    """Return the error for a validator of several sections that finds one key wrong.

    Args:
        key: The key, such as "target.replicas".
        message: What is wrong with it.
    """
    return PydanticCustomError(AT_KEY, "{message}", {"message": message, "key": key})


def fields_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the keys of a section, as TOML has them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the class of a section, or of each of a field's sections; None for a plain value."""
    types = (field.annotation, *get_args(field.annotation))
    return next((item for item in types if isinstance(item, type) and issubclass(item, Section)), None)
