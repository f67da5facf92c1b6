"""What makes an enclave's manifest insecure: each finding with its line, its reason, and its class.

A class of findings is allowed by name only (``--dangerous-NAME``), and said aloud each time.

Source: Gramine 1.9, ``Documentation/manifest-syntax.rst`` (which settings are insecure, and why);
tensorflow/serving 9d981c5c, ``model_servers/main.cc``, ``server.h``, ``server.cc`` (what listens, and the defaults).
"""

import copy
import logging
import posixpath
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from sealserve.enclave.toml_lines import Path, find_lines
from sealserve.errors import VerificationError

LOGGER: Final = logging.getLogger(__name__)
_OFF: Final = (False, 0)
_FALSE: Final = frozenset({"false", "0", "no"})
_BOOLEANS: Final = frozenset({"enable_profiler", "use_alts_credentials"})  # of TensorFlow Serving, of those judged
_SERVING: Final = "tensorflow_model_server"
_LOGGING_VARIABLES: Final = {
    "GRPC_TRACE": "gRPC logs what is sent",
    "SSLKEYLOGFILE": "TLS keys are written to a file",
    "TF_CPP_MAX_VLOG_LEVEL": "TensorFlow logs what it computes",
    "TF_CPP_VMODULE": "TensorFlow logs what it computes",
}
"""Source: grpc ``doc/environment_variables.md``; Python ``ssl``; tensorflow ``tsl/platform/default/logging.cc``."""


class Danger(StrEnum):
    """A class of what makes a manifest insecure; ``--dangerous-NAME`` allows it."""

    DEBUG = "debug"
    HOST_INPUT = "host-input"
    HOST_FILES = "host-files"
    HOST_DEVICES = "host-devices"
    MANIFEST_KEYS = "manifest-keys"
    LOG = "log"
    INSECURE_SETTINGS = "insecure-settings"
    SERVER_FLAGS = "server-flags"

    @property
    def meaning(self) -> str:
        """What is allowed."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Danger.DEBUG: "debugging, statistics and profiling: the host reads the enclave's memory",
    Danger.HOST_INPUT: "arguments or environment from the host",
    Danger.HOST_FILES: "files of the host that are not measured",
    Danger.HOST_DEVICES: "devices and memory shared with the host",
    Danger.MANIFEST_KEYS: "keys of encrypted files in the manifest, which the host reads",
    Danger.LOG: "a log with more than errors, which the host reads",
    Danger.INSECURE_SETTINGS: "other settings that Gramine calls insecure or experimental",
    Danger.SERVER_FLAGS: "a model server with plaintext, profiler, polling, or one-way TLS where more is needed",
}


class ManifestInsecureError(VerificationError):
    """The manifest has settings that would make the enclave insecure; the message names each with its line."""

    code = "manifest.insecure"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """Something insecure in a manifest.

    Args:
        line: Where it is, from 1; where something is missing, the line of what lacks it.
        setting: The setting's dotted name, or the server's flag.
        reason: Why it is insecure.
        danger: Its class.
        path: The keys to the setting, or None if it is missing.
    """

    line: int
    setting: str
    reason: str
    danger: Danger
    path: Path | None = None

    def __str__(self) -> str:
        return f"line {self.line}: {self.setting}: {self.reason} (--dangerous-{self.danger})"


def lint(text: str, data: Mapping[str, Any] | None = None, *, one_way_tls: bool = False) -> tuple[LintFinding, ...]:
    """Return what is insecure in a manifest, in the order of its lines.

    Args:
        text: The manifest, a valid TOML text.
        data: What it says, where it was parsed already.
        one_way_tls: Whether the server's sealed TLS settings let in clients without a certificate.
    """
    return _Linter(text, tomllib.loads(text) if data is None else data, one_way_tls=one_way_tls).findings()


def refuse(findings: Collection[LintFinding], allowed: Collection[Danger], *, name: str) -> None:
    """Refuse findings, unless their class is allowed; what is allowed is warned of.

    Raises:
        ManifestInsecureError: There is one of a class that is not allowed.
    """
    refused = [finding for finding in findings if finding.danger not in allowed]
    if refused:
        raise ManifestInsecureError(
            f"{name} is insecure: " + "; ".join(map(str, refused)) + ".",
            hint="Take these settings out. The option named behind each allows it, and then nothing is protected.",
        )
    for finding in findings:
        LOGGER.warning("dangerous: %s, %s", name, finding)


def without(data: Mapping[str, Any], findings: Collection[LintFinding]) -> dict[str, Any]:
    """Return a manifest's content with what was found taken out, and a safe value where one is needed."""
    rest = copy.deepcopy(dict(data))
    for path in sorted((finding.path for finding in findings if finding.path), key=_deepest_last_first):
        _take_out(rest, path)
    for table, key, safe in (("fs", "root", {"type": "tmpfs"}), ("sgx", "debug", False)):
        if isinstance(rest.get(table), dict):
            rest[table].setdefault(key, safe)
    return rest


def _deepest_last_first(path: Path) -> list[tuple[int, int | str]]:
    return [(-part, "") if isinstance(part, int) else (0, part) for part in path]


def _take_out(data: Any, path: Path) -> None:
    *above, last = path
    parent = data
    try:
        for part in above:
            parent = parent[part]
        del parent[last]
    except (KeyError, IndexError):
        return  # it went with something around it
    if above and not parent and isinstance(parent, list):
        _take_out(data, tuple(above))


class _Linter:
    def __init__(self, text: str, data: Mapping[str, Any], *, one_way_tls: bool) -> None:
        self._data = data
        self._text = text
        self._one_way_tls = one_way_tls

    @cached_property
    def _lines(self) -> Mapping[Path, int]:
        return find_lines(self._text)  # only where there is something to say: a manifest may have 100,000 lines

    def findings(self) -> tuple[LintFinding, ...]:
        found = [*self._named(self._data, ()), *self._loader(), *self._files(), *self._sgx(), *self._server()]
        return tuple(sorted(found, key=lambda finding: (finding.line, finding.setting)))

    def _named(self, value: object, path: Path) -> Iterator[LintFinding]:
        """Find settings whose names say that they are insecure, wherever they are but in the environment."""
        if isinstance(value, list):
            for index, element in enumerate(value):
                yield from self._named(element, (*path, index))
        elif isinstance(value, Mapping) and path != ("loader", "env"):
            for key, element in value.items():
                if not key.startswith(("insecure__", "debug__", "experimental__")):
                    yield from self._named(element, (*path, key))
                elif element not in _OFF:
                    yield self._by_name(key, (*path, key))

    def _by_name(self, key: str, path: Path) -> LintFinding:
        if key == "insecure__keys":
            return self._finding(path, "the key is readable in the manifest", Danger.MANIFEST_KEYS)
        if key in {"insecure__use_cmdline_argv", "insecure__use_host_env"}:
            what = "arguments" if key.endswith("argv") else "environment"
            return self._finding(path, f"the host chooses the {what}", Danger.HOST_INPUT)
        if key.startswith("debug__"):
            return self._finding(path, "it is for debugging only", Danger.DEBUG)
        return self._finding(path, f"Gramine calls it {key.split('__', maxsplit=1)[0]}", Danger.INSECURE_SETTINGS)

    def _loader(self) -> Iterator[LintFinding]:
        loader = _table(self._data, "loader")
        for name, value in _table(loader, "env").items():
            if isinstance(value, Mapping) and "passthrough" in value:
                yield self._finding(("loader", "env", name), "the host chooses its value", Danger.HOST_INPUT)
            elif name in _LOGGING_VARIABLES and value not in {"", "0", "none"}:
                yield self._finding(("loader", "env", name), _LOGGING_VARIABLES[name], Danger.LOG)
        for key, what in (("env_src_file", "environment"), ("argv_src_file", "arguments")):
            if key in loader:
                yield self._finding(("loader", key), f"the {what} is not in the manifest", Danger.HOST_INPUT)
        if loader.get("log_level", "error") not in ("none", "error"):
            yield self._finding(("loader", "log_level"), "more than errors may leak secrets to the host", Danger.LOG)
        if "log_file" in loader:
            yield self._finding(("loader", "log_file"), "the log goes to a file of the host", Danger.LOG)

    def _files(self) -> Iterator[LintFinding]:
        fs = _table(self._data, "fs")
        if "root" not in fs:
            reason = "without it, the host's current directory is the root"
            yield self._missing("fs.root", reason, Danger.HOST_FILES, beside=("fs",))
        elif _table(fs, "root").get("type") != "tmpfs":
            yield self._finding(("fs", "root"), "the root should be a tmpfs, not the host's", Danger.HOST_FILES)
        for index, mount in enumerate(_list(fs, "mounts")):
            if not isinstance(mount, Mapping):
                continue
            path = ("fs", "mounts", index)
            uri, kind = str(mount.get("uri", "")), mount.get("type", "chroot")
            if kind == "untrusted_shm":
                yield self._finding(path, "memory shared with the host", Danger.HOST_DEVICES)
            elif uri.startswith("dev:"):
                yield self._finding(path, "a device of the host", Danger.HOST_DEVICES)
            elif kind == "chroot" and (
                _is_everything(str(mount.get("path", "/"))) or _is_everything(uri.removeprefix("file:") or "/")
            ):
                yield self._finding(path, "all files of the host, or the host's in place of all", Danger.HOST_FILES)

    def _sgx(self) -> Iterator[LintFinding]:
        sgx = _table(self._data, "sgx")
        for index, file in enumerate(_list(sgx, "allowed_files")):
            path = ("sgx", "allowed_files", index)
            yield self._finding(path, f"{file!r} is not measured: the host changes it", Danger.HOST_FILES)
        if sgx.get("file_check_policy", "strict") != "strict":
            reason = "files that nobody measured are opened"
            yield self._finding(("sgx", "file_check_policy"), reason, Danger.HOST_FILES)
        for key, reason in (
            ("debug", "the host reads the enclave's memory"),
            ("enable_stats", "statistics need a debug enclave"),
            ("vtune_profile", "profiling needs a debug enclave"),
        ):
            if sgx.get(key, False) is not False:
                yield self._finding(("sgx", key), reason, Danger.DEBUG)
        if _table(sgx, "profile").get("enable", "none") != "none":
            yield self._finding(("sgx", "profile"), "profiling needs a debug enclave", Danger.DEBUG)
        for key in ("allowed_ioctls", "ioctl_structs"):
            if _table(self._data, "sys").get(key):
                yield self._finding(("sys", key), "their data passes the host unprotected", Danger.HOST_DEVICES)

    def _server(self) -> Iterator[LintFinding]:
        argv = [str(argument) for argument in _list(_table(self._data, "loader"), "argv")]
        program = posixpath.basename(str(_table(self._data, "libos").get("entrypoint", "")))
        serving = program == _SERVING
        if not serving and (index := next((i for i, one in enumerate(argv) if _SERVING in one and i), None)):
            reason = f"{program} starts the server: what flags it gets is not seen here"
            line = self._line(("loader", "argv", index))
            yield LintFinding(line=line, setting=f"loader.argv.{index}", reason=reason, danger=Danger.SERVER_FLAGS)
            return
        if not serving and not any("sealserve.serving" in one or "sealserve-model-server" in one for one in argv):
            return  # another program: its flags mean nothing to us
        flags = _serving_flags(argv) if serving else _own_flags(argv)
        if not flags.get("ssl_config_file", (0, ""))[1]:
            yield self._flag(flags, "ssl_config_file", "without it the server speaks plaintext")
        for name in ("dangerous_plaintext", "dangerous_plaintext_rest"):
            if flags.get(name, (0, "false"))[1].lower() not in _FALSE:
                yield self._flag(flags, name, "the server speaks plaintext")
        if serving:
            yield from self._tensorflow_serving(flags)

    def _tensorflow_serving(self, flags: Mapping[str, tuple[int, str]]) -> Iterator[LintFinding]:
        polls = "an older or missing version of the model would be served later"
        for name, default, wanted, reason in (
            ("rest_api_port", "0", {"0"}, "its REST API has no TLS"),
            ("enable_profiler", "true", _FALSE, "a profile shows what runs inside; it is on by default"),
            ("file_system_poll_wait_seconds", "1", {"0"}, f"{polls}; it is 1 by default"),
            ("model_config_file_poll_wait_seconds", "0", {"0"}, polls),
            ("use_alts_credentials", "false", _FALSE, "ALTS takes the place of TLS"),
        ):
            if flags.get(name, (0, default))[1].lower() not in wanted:
                yield self._flag(flags, name, reason)
        if self._one_way_tls:
            reason = (
                "with one-way TLS anybody may reload models: its inference port also takes HandleReloadConfigRequest"
            )
            yield self._flag(flags, "ssl_config_file", reason)

    def _flag(self, flags: Mapping[str, tuple[int, str]], name: str, reason: str) -> LintFinding:
        if name not in flags:
            return self._missing(f"--{name}", reason, Danger.SERVER_FLAGS, beside=("loader", "argv"))
        line = self._lines.get(("loader", "argv", flags[name][0]), 1)
        return LintFinding(line=line, setting=f"--{name}", reason=reason, danger=Danger.SERVER_FLAGS)

    def _finding(self, path: Path, reason: str, danger: Danger) -> LintFinding:
        setting = ".".join(str(part) for part in path)
        return LintFinding(line=self._line(path), setting=setting, reason=reason, danger=danger, path=path)

    def _missing(self, setting: str, reason: str, danger: Danger, *, beside: Path) -> LintFinding:
        return LintFinding(line=self._line(beside), setting=f"{setting} is missing", reason=reason, danger=danger)

    def _line(self, path: Path) -> int:
        return next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 1)


def _serving_flags(argv: list[str]) -> dict[str, tuple[int, str]]:
    """Return TensorFlow Serving's flags, with their places and values. What it does not understand it ignores.

    Source: tensorflow/tensorflow ``core/util/command_line_flags.cc``: ``--name=value`` alone, bare ones are true, from
    ``argv[1]`` to ``--``; tensorflow/serving ``main.cc``: unknown arguments are printed, and the server starts.
    """
    flags = {}
    for index, argument in enumerate(argv[1:], start=1):
        if argument == "--":
            break
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and (equals or name in _BOOLEANS):
            flags[name] = (index, value if equals else "true")
    return flags


def _own_flags(argv: list[str]) -> dict[str, tuple[int, str]]:
    """Return our server's flags, with their places and values: ``--name=value`` and ``--name value``."""
    flags = {}
    for index, argument in enumerate(argv):
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--"):
            after = argv[index + 1] if index + 1 < len(argv) and not argv[index + 1].startswith("--") else "true"
            flags[name] = (index, value if equals else after)
    return flags


def _is_everything(path: str) -> bool:
    """Return whether a path is the root, or leads upwards to wherever that is."""
    normal = posixpath.normpath(path)
    return not normal.strip("/") or normal.split("/")[0] == ".."


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(parent: Mapping[str, Any], key: str) -> list[Any]:
    value = parent.get(key)
    return value if isinstance(value, list) else []
