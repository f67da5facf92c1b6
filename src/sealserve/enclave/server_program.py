"""Determines which model server a manifest starts, and with which arguments, from the file that Gramine executes.

Gramine executes ``libos.entrypoint``. ``loader.argv[0]`` is only a text, which the program may rely on. Two programs
are supported: sealserve's server, as a Python module or through its console script, and TensorFlow Serving's binary.
sealserve's server can also be started by the module that attests first. A shell, ``env``, a dynamic loader, other
Python code or a binary with a different name may start any program, so its arguments cannot be checked.

Source: Gramine 1.9, ``Documentation/manifest-syntax.rst``, "LibOS entrypoint"; Python documentation, "Command line".
"""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from sealserve.enclave.mount_places import MountPlaces

_TENSORFLOW_SERVING: Final = "tensorflow_model_server"
_OWN_SCRIPT: Final = "sealserve-model-server"
_OWN_MODULE: Final = "sealserve.serving"
ATTESTER_MODULE: Final = "sealserve.attester"
"""The module that attests itself, and then runs sealserve's server in the same process."""
_PYTHON: Final = re.compile(r"python(3(\.[0-9]+)?)?")
# Options that isolate Python or do not affect security. Not among them: -c, -i, -v, -W, -x, -d.
_HARMLESS_OPTIONS: Final = re.compile(r"-[IBEsSPuO]+")
_MODULE_OPTION: Final = re.compile(r"-[IBEsSPuO]*m(?P<module>.*)", re.DOTALL)
_BYTECODE_FOLDER: Final = "pycache_prefix="


class Server(Enum):
    """A supported model server."""

    OWN = auto()
    TENSORFLOW_SERVING = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The program that a manifest starts.

    Args:
        server: The model server; None if it is a different program.
        first: The index in ``loader.argv`` of the server's first argument.
        reason: Why the program is not supported, or what is wrong with its name.
        index: The index in ``loader.argv`` that ``reason`` is about; None if it is about ``libos.entrypoint``.
        attests: Whether the program attests itself, and creates the server's TLS key.
    """

    server: Server | None
    first: int = 1
    reason: str = ""
    index: int | None = None
    attests: bool = False


def find_program(entrypoint: str, argv: Sequence[str], places: MountPlaces) -> Program:
    """Return which program ``libos.entrypoint`` and ``loader.argv`` start.

    Args:
        entrypoint: The path of the file that Gramine executes.
        argv: The argument vector.
        places: Resolves paths inside the enclave, because a mount can give a file a different name.
    """
    name = posixpath.basename(entrypoint)
    if (outside := places.file_name(entrypoint)) != name:
        reason = f"a mount gives the host's file {outside!r} the name {name!r}, so its name does not identify it"
        return Program(server=None, reason=reason)
    if argv and argv[0] != entrypoint:
        reason = "it differs from libos.entrypoint, which is the program that Gramine starts"
        return Program(server=None, reason=reason, index=0)
    if name == _TENSORFLOW_SERVING:
        return Program(server=Server.TENSORFLOW_SERVING)
    if name == _OWN_SCRIPT:
        return Program(server=Server.OWN)
    if _PYTHON.fullmatch(name):
        return _of_python(argv, places)
    reason = f"{name or entrypoint!r} is not a supported model server, so its arguments cannot be checked"
    return Program(server=None, reason=reason)


def _of_python(argv: Sequence[str], places: MountPlaces) -> Program:
    """Read Python's own options in the same way as Python, up to the module or the script."""
    at = 1
    while at < len(argv):
        argument = argv[at]
        if _HARMLESS_OPTIONS.fullmatch(argument):
            at += 1
        elif argument == "-X" and at + 1 < len(argv) and argv[at + 1].startswith(_BYTECODE_FOLDER):
            at += 2
        elif argument.startswith(f"-X{_BYTECODE_FOLDER}"):
            at += 1
        elif found := _MODULE_OPTION.fullmatch(argument):
            module, at = (found["module"], at) if found["module"] else ("".join(argv[at + 1 : at + 2]), at + 1)
            if module in (_OWN_MODULE, ATTESTER_MODULE):
                return Program(server=Server.OWN, first=at + 1, attests=module == ATTESTER_MODULE)
            reason = f"Python runs the module {module!r}, not {_OWN_MODULE} or {ATTESTER_MODULE}"
            return _other(reason, min(at, len(argv) - 1))
        elif posixpath.basename(argument) == places.file_name(argument) == _OWN_SCRIPT:
            return Program(server=Server.OWN, first=at + 1)
        else:
            return _other(f"the Python argument {argument!r} is neither -m {_OWN_MODULE} nor a harmless option", at)
    return _other(f"the Python arguments name no program: expected -m {_OWN_MODULE}", None)


def _other(reason: str, index: int | None) -> Program:
    return Program(server=None, reason=reason, index=index)
