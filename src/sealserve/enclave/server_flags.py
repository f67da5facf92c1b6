"""Finds insecure flags of a model server: plaintext, polling, files that are not sealed, and more.

If a flag is repeated, both servers use the last one. Neither server supports abbreviations or ``--no`` forms:
sealserve's server refuses to start, and TensorFlow Serving ignores them. So a required flag in such a form counts as
missing.

Source: tensorflow/serving 9d981c5c, ``model_servers/main.cc``, ``server.h``, ``server.cc`` (what listens, and the
defaults); tensorflow/tensorflow ``core/util/command_line_flags.cc``. The flags: `sealserve.serving_flags`.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sealserve.enclave.mount_places import MountPlaces
from sealserve.enclave.server_program import Program, Server
from sealserve.pki.client_settings import CLIENT_SETTINGS_PATH
from sealserve.serving_flags import BY_NAME, FLAGS, HONOURED

_FALSE: Final = frozenset({"false", "0", "no"})
_OLDER: Final = "the server would later load an older version of the model, or drop a version that the host removed"
SEALED: Final = tuple(sorted(flag.name for flag in FLAGS if flag.reads))
"""Flags of either server that name a file which the server reads."""
TLS_FOLDER: Final = posixpath.dirname(CLIENT_SETTINGS_PATH)
"""The folder of the TLS settings in a release. A release for an attested server with one-way TLS has none."""
_OWN_BOOLEANS: Final = frozenset(flag.name for flag in HONOURED if isinstance(flag.default, bool))  # take no argument
_SERVING_BOOLEANS: Final = frozenset(flag.name for flag in FLAGS if isinstance(flag.default, bool) and not flag.ours)


@dataclass(frozen=True, slots=True)
class FlagFinding:
    """An insecure flag.

    Args:
        name: The flag, without dashes.
        index: Its index in the arguments; None if it is missing.
        reason: Why it is insecure.
    """

    name: str
    index: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Given:
    index: int
    value: str


def judge_flags(
    program: Program, arguments: Sequence[str], places: MountPlaces, *, one_way_tls: bool
) -> Iterator[FlagFinding]:
    """Yield the insecure flags in the arguments of a model server.

    Args:
        program: The program that runs the model server.
        arguments: Its arguments, without the program.
        places: Resolves paths inside the enclave.
        one_way_tls: Whether its TLS settings accept clients without a certificate.
    """
    own = program.server is Server.OWN
    flags = _own_flags(arguments) if own else _serving_flags(arguments)
    yield from _needed(flags, places, own=own, attests=program.attests)
    for name in SEALED:
        if name in flags and flags[name].value and not places.is_sealed(flags[name].value):
            reason = f"{flags[name].value!r} is not below an encrypted mount: the host could read or replace the file"
            yield FlagFinding(name, flags[name].index, reason)
    rules = (*_POLLING, *(_OWN_RULES if own else _SERVING_RULES))
    for name, wanted, reason in rules:
        given = flags.get(name)
        if (_default(name, own=own) if given is None else given.value).lower() not in wanted:
            yield FlagFinding(name, given.index if given else None, reason)
    if not own and one_way_tls:
        reason = "with one-way TLS, any client may reload models: the inference port also has HandleReloadConfigRequest"
        yield FlagFinding(
            "ssl_config_file", flags["ssl_config_file"].index if "ssl_config_file" in flags else None, reason
        )


_Rule = tuple[str, frozenset[str], str]
_POLLING: Final[tuple[_Rule, ...]] = (
    ("file_system_poll_wait_seconds", frozenset({"0"}), f"{_OLDER}; the default is 1 second"),
    ("model_config_file_poll_wait_seconds", frozenset({"0"}), _OLDER),
)
_OWN_RULES: Final[tuple[_Rule, ...]] = (
    ("dangerous_plaintext", _FALSE, "the server accepts plaintext connections"),
    ("dangerous_plaintext_rest", _FALSE, "the server accepts plaintext connections"),
)
_SERVING_RULES: Final[tuple[_Rule, ...]] = (
    ("rest_api_port", frozenset({"0"}), "the server's REST API has no TLS"),
    ("enable_profiler", _FALSE, "a profile shows what runs inside the enclave; the profiler is on by default"),
    ("use_alts_credentials", _FALSE, "ALTS replaces TLS"),
    ("grpc_socket_path", frozenset({""}), "the server's Unix socket has no TLS"),
)


def _default(name: str, *, own: bool) -> str:
    """Return a flag's default in one of the servers, as text on its command line."""
    flag = BY_NAME[name]
    return str(flag.default if own or flag.theirs is None else flag.theirs)


def _needed(flags: Mapping[str, _Given], places: MountPlaces, *, own: bool, attests: bool) -> Iterator[FlagFinding]:
    needed = []
    if not attests:
        needed.append(("ssl_config_file", "without it the server accepts plaintext connections"))
    elif places.shows_sealed(TLS_FOLDER):  # the enclave creates the TLS key: the file is only about client certificates
        needed.append(("ssl_config_file", "without it the server accepts clients without a certificate"))
    if own:
        needed.append(("file_list", "without it the server does not detect that the host hides files of the release"))
    for name, reason in needed:
        given = flags.get(name)
        if given is None or not given.value:
            yield FlagFinding(name, given.index if given else None, reason)


def _serving_flags(arguments: Sequence[str]) -> dict[str, _Given]:
    """Return TensorFlow Serving's flags: only ``--name=value``, up to ``--``. A boolean flag without a value is true.

    TensorFlow Serving prints flags that it does not support, and starts nevertheless (``main.cc``).
    """
    flags = {}
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and (equals or name in _SERVING_BOOLEANS):
            flags[name] = _Given(index, value if equals else "true")
    return flags


def _own_flags(arguments: Sequence[str]) -> dict[str, _Given]:
    """Return the flags of sealserve's server: ``--name=value`` or ``--name value``. A bare boolean flag is true."""
    flags = {}
    for index, argument in enumerate(arguments):
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            continue  # the value of the previous flag; otherwise the server refuses to start
        if not equals:
            after = arguments[index + 1] if index + 1 < len(arguments) else "--"
            value = "true" if name in _OWN_BOOLEANS or after.startswith("--") else after
        flags[name] = _Given(index, value)
    return flags
