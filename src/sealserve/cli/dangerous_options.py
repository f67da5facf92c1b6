"""The options ``--dangerous-NAME``: each allows one class of insecure settings in a manifest."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from sealserve.cli import console
from sealserve.enclave.findings import Danger

PARAMETER = "dangerous"


def dangerous_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Decorate a verb with these options. The verb receives the allowed classes in its parameter ``dangerous``."""

    @wraps(verb)
    def with_options(**given: Any) -> None:
        allowed = frozenset(danger for danger in Danger if given.pop(_name(danger)))
        for danger in sorted(allowed):
            console.warn(f"--dangerous-{danger} allows {danger.meaning}.")
        verb(**given, dangerous=allowed)

    signature = inspect.signature(verb)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != PARAMETER]
    parameters = [*own, *map(_parameter, Danger)]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def _parameter(danger: Danger) -> inspect.Parameter:
    option = typer.Option(
        f"--dangerous-{danger}",
        help=f"Allow {danger.meaning}",
        rich_help_panel="Dangerous options: each one weakens the protection of the enclave",
    )
    return inspect.Parameter(
        _name(danger), inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )


def _name(danger: Danger) -> str:
    return f"dangerous_{danger.replace('-', '_')}"
