"""Imports that wait until a command runs, so that `sealserve VERB --help` loads neither a database nor gRPC.

A verb's module has two kinds of imports. Its options need the first kind: enumerations, defaults, and Typer. The bodies
of its functions need the second kind. The module puts the second kind in a block::

    with deferred:
        from sealserve.owner import releases

In the `sealserve` program, the block imports nothing at first. `Verbs` completes all blocks before it calls a command.
The help, the completion of a shell, and an error in the command line never get that far. Everywhere else, in a test for
example, the block imports at once. The block does what `lazy from` does in Python 3.15 (PEP 810).
"""

import builtins
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast


class _Deferred:
    """A name that stands for an import which has not been made yet. Only annotations may mention it.

    Args:
        load: Makes the import, and returns its value.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    def __getattr__(self, name: str) -> "_Deferred":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Deferred(lambda: getattr(self._load(), name))

    def __getitem__(self, _: object) -> "_Deferred":
        return self

    def __or__(self, _: object) -> "_Deferred":
        return self

    __ror__ = __or__


class DeferredImports:
    """The imports in ``with`` blocks. They wait from `enable` to `complete`."""

    def __init__(self) -> None:
        self._waiting = False
        self._modules: list[dict[str, Any]] = []

    def enable(self) -> None:
        """Let the imports wait in the blocks that follow. Only the `sealserve` program calls this."""
        self._waiting = True

    def complete(self, *, unused: Collection[str] = ()) -> None:
        """Make all imports that wait. From now on, no import waits.

        Args:
            unused: Modules whose imports the command does not use. They may be missing in the base installation.

        Raises:
            ImportError: A module is missing, for example since an optional dependency is not installed.
        """
        self._waiting = False
        for names in self._modules:
            if names["__name__"] in unused:
                continue
            for name, value in list(names.items()):  # a package gets a name more when its submodule is imported
                if isinstance(value, _Deferred):
                    names[name] = value._load()  # noqa: SLF001  # the two classes are one mechanism
        self._modules.clear()

    def __enter__(self) -> None:
        if self._waiting:
            self._modules.append(sys._getframe(1).f_globals)  # noqa: SLF001  # the module that has the block
            builtins.__import__ = cast("Any", _stand_in)  # each import statement of the block calls this function

    def __exit__(self, *_: object) -> None:
        builtins.__import__ = _import


_import = builtins.__import__


def _stand_in(
    module: str,
    _globals: Mapping[str, object] | None = None,
    _locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """Return what an import statement takes its names from, without the import."""
    return _Deferred(lambda: _import(module, None, None, fromlist or (), level))


deferred = DeferredImports()
