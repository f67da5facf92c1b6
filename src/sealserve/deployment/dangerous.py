"""Settings of ``sealserve.toml`` that weaken security: the keys whose names begin with ``dangerous_``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sealserve.deployment.section import Section
from sealserve.deployment.whole import Deployment

_PREFIX: Final = "dangerous_"


@dataclass(frozen=True, slots=True, kw_only=True)
class DangerousSetting:
    """A setting that weakens security and is on.

    Args:
        key: The key with its tables, such as "kubernetes.broker.dangerous_inside".
        value: Its value, as text.
        meaning: The description of the key.
        model: The name of the model that it belongs to. Empty for a setting of the whole deployment.
    """

    key: str
    value: str
    meaning: str
    model: str = ""

    def __str__(self) -> str:
        """Return the warning for users."""
        model = f" (model {self.model!r})" if self.model else ""
        return f"sealserve.toml weakens security: {self.key} = {self.value}{model}. Meaning: {self.meaning}."


def dangerous_settings(deployment: Deployment) -> Sequence[DangerousSetting]:
    """Return every dangerous setting that is on, for any target.

    The search covers all sections, so that it also finds keys that are added in the future.
    """
    return tuple(_dangerous_in(deployment, ""))


def _dangerous_in(section: Section, table: str, model: str = "") -> Iterator[DangerousSetting]:
    for attribute, field in type(section).model_fields.items():
        key, value = f"{table}{field.alias or attribute}", getattr(section, attribute)
        # Settings are in tables, in tables of tables, and in the list of models.
        if isinstance(value, Section):
            yield from _dangerous_in(value, f"{key}.", model)
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            for item in value:
                yield from _dangerous_in(item, f"{key}.", getattr(item, "name", ""))
        elif attribute.startswith(_PREFIX) and value:
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
            yield DangerousSetting(key=key, value=text, meaning=field.description or "", model=model)
