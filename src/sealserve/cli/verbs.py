"""Register the functions of a verb's module as commands, and expand their shared options."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, TypeVar, get_type_hints

import typer

from sealserve.cli.deferred_imports import deferred

_Verb = TypeVar("_Verb", bound=Callable[..., None])


@dataclass(frozen=True)
class Options:
    """Base class of options that several verbs share. Each field of a subclass becomes an option of the verb."""


class Verbs(typer.Typer):
    """The commands in the module of a verb.

    A command receives shared options as one parameter, whose type is a subclass of `Options`.

    Args:
        text: Help of a group of commands; None for a module with one command.
        unused: Modules of the same group whose deferred imports these commands do not use.
    """

    def __init__(self, text: str | None = None, *, unused: Collection[str] = ()) -> None:
        self._unused = unused
        super().__init__(add_completion=False, no_args_is_help=text is not None, help=text)

    def command(self, *arguments: Any, **settings: Any) -> Callable[[_Verb], _Verb]:
        """Return the decorator that registers a function as a command, as `typer.Typer.command` does."""
        register = super().command(*arguments, **settings)

        def decorate(verb: _Verb) -> _Verb:
            register(_expanded(verb, self._unused))
            return verb

        return decorate


def _expanded(verb: Callable[..., None], unused: Collection[str]) -> Callable[..., None]:
    """Return ``verb`` with each `Options` parameter replaced by its fields, which follow the verb's own parameters."""
    own = dict(inspect.signature(verb).parameters)
    shared = {name: item.annotation for name, item in own.items() if _is_shared(item.annotation)}
    expanded = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own.values() if item.name not in shared]
    for kind in shared.values():
        expanded += [_parameter(kind, field.name, field.default) for field in fields(kind)]

    @wraps(verb)
    def with_options(**given: Any) -> None:
        built = {name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
                 for name, kind in shared.items()}  # fmt: skip
        deferred.complete(unused=unused)  # the command runs: now it needs all that its module imports
        verb(**given, **built)

    with_options.__signature__ = inspect.Signature(expanded)  # type: ignore[attr-defined]
    with_options.__annotations__ = {item.name: item.annotation for item in expanded}
    return with_options


def _is_shared(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Options)


def _parameter(kind: type[Options], name: str, default: object) -> inspect.Parameter:
    annotation = get_type_hints(kind, include_extras=True)[name]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
