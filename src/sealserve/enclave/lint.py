"""Lint of an enclave's manifest: finds insecure settings, each with its line, reason and class.

A class of findings is allowed only by its name (``--dangerous-NAME``), and each use is logged as a warning.

Source: Gramine 1.9, ``Documentation/manifest-syntax.rst`` (which settings are insecure, and why).
"""

import posixpath
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Final

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.environment import DEVICE_VARIABLE, PRELOADED, VARIABLES, why_unknown
from sealserve.enclave.findings import Danger, LintFinding, dotted
from sealserve.enclave.mount_places import MountPlaces
from sealserve.enclave.relay_address import RELAY_VARIABLE
from sealserve.enclave.server_flags import judge_flags
from sealserve.enclave.server_program import ATTESTER_MODULE, find_program
from sealserve.enclave.toml_lines import Path, find_lines

_OFF: Final = (False, 0)


def lint(text: str, data: Mapping[str, Any] | None = None, *, one_way_tls: bool = False) -> tuple[LintFinding, ...]:
    """Return the insecure settings of a manifest, in the order of lines. `examine` also finds unaccepted settings.

    Args:
        text: The manifest, which must be valid TOML.
        data: The parsed manifest, if it was parsed before. By default ``text`` is parsed.
        one_way_tls: Whether the server's sealed TLS settings accept clients without a certificate.
    """
    return _Linter(text, tomllib.loads(text) if data is None else data, one_way_tls=one_way_tls).findings()


class _Linter:
    def __init__(self, text: str, data: Mapping[str, Any], *, one_way_tls: bool) -> None:
        self._data = data
        self._text = text
        self._one_way_tls = one_way_tls
        self._places = MountPlaces.of(_list(_table(data, "fs"), "mounts"))

    @cached_property
    def _lines(self) -> Mapping[Path, int]:
        return find_lines(self._text)  # only if there are findings: a manifest may have 100,000 lines

    def findings(self) -> tuple[LintFinding, ...]:
        found = [*self._named(self._data, ()), *self._loader(), *self._files(), *self._sgx(), *self._server()]
        return tuple(sorted(found, key=lambda finding: (finding.line, finding.setting)))

    def _named(self, value: object, path: Path) -> Iterator[LintFinding]:
        """Find settings whose names mark them as insecure, in all tables except the environment."""
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
            return self._finding(path, "the host can read the key in the manifest", Danger.MANIFEST_KEYS)
        if key in {"insecure__use_cmdline_argv", "insecure__use_host_env"}:
            what = "arguments" if key.endswith("argv") else "environment"
            return self._finding(path, f"the host chooses the {what}", Danger.HOST_INPUT)
        if key.startswith("debug__"):
            return self._finding(path, "the setting is for debugging only", Danger.DEBUG)
        return self._finding(
            path, f"Gramine calls the setting {key.split('__', maxsplit=1)[0]}", Danger.INSECURE_SETTINGS
        )

    def _loader(self) -> Iterator[LintFinding]:
        loader = _table(self._data, "loader")
        for name, value in _table(loader, "env").items():
            yield from self._variable(name, value)
        for key, what in (("env_src_file", "environment"), ("argv_src_file", "arguments")):
            if key in loader:
                yield self._finding(
                    ("loader", key), f"the {what} is in a separate file, not in the manifest", Danger.HOST_INPUT
                )
        if loader.get("log_level", "error") not in ("none", "error"):
            yield self._finding(
                ("loader", "log_level"), "messages other than errors may leak secrets to the host", Danger.LOG
            )
        if "log_file" in loader:
            yield self._finding(("loader", "log_file"), "the log is written to a file of the host", Danger.LOG)

    def _variable(self, name: str, value: object) -> Iterator[LintFinding]:
        path = ("loader", "env", name)
        if name == RELAY_VARIABLE:  # no option allows it
            reason = "only the launcher of gramine-direct sets it, in a manifest in memory"
            yield self._finding(path, reason, None, code=EnclaveCode.MANIFEST_INVALID_SETTING)
            return
        if isinstance(value, Mapping):
            if "passthrough" in value:
                yield self._finding(path, "the host chooses its value", Danger.HOST_INPUT)
                return
            value = value.get("value")  # Gramine's alternative form of a plain text
        variable = VARIABLES.get(name)
        if variable is None:
            yield self._finding(path, *why_unknown(name))
        elif isinstance(value, str) and not variable.accepts(value, self._places):
            reason = f"expected {variable.expected}, got {value!r}"
            danger, code = (
                (None, EnclaveCode.MANIFEST_INVALID_SETTING)
                if variable.needed
                else (variable.danger, EnclaveCode.MANIFEST_INSECURE)
            )
            yield self._finding(path, reason, danger, code=code)

    def _files(self) -> Iterator[LintFinding]:
        fs = _table(self._data, "fs")
        if "root" not in fs:
            reason = "without it, the host's current directory is the root"
            yield self._missing("fs.root", reason, Danger.HOST_FILES, beside=("fs",))
        elif _table(fs, "root").get("type") != "tmpfs":
            yield self._finding(
                ("fs", "root"), "the root should be a tmpfs, not a folder of the host", Danger.HOST_FILES
            )
        for index, mount in enumerate(_list(fs, "mounts")):
            if not isinstance(mount, Mapping):
                continue
            path = ("fs", "mounts", index)
            uri, kind = str(mount.get("uri", "")), mount.get("type", "chroot")
            if kind == "untrusted_shm":
                yield self._finding(path, "the memory is shared with the host", Danger.HOST_DEVICES)
            elif uri.startswith("dev:"):
                yield self._finding(path, "it is a device of the host", Danger.HOST_DEVICES)
            elif kind == "chroot" and (
                _is_everything(str(mount.get("path", "/"))) or _is_everything(uri.removeprefix("file:") or "/")
            ):
                reason = "it exposes all files of the host, or replaces the whole root by files of the host"
                yield self._finding(path, reason, Danger.HOST_FILES)

    def _sgx(self) -> Iterator[LintFinding]:
        sgx = _table(self._data, "sgx")
        for index, file in enumerate(_list(sgx, "allowed_files")):
            path = ("sgx", "allowed_files", index)
            yield self._finding(path, f"{file!r} is not measured: the host can change it", Danger.HOST_FILES)
        if sgx.get("file_check_policy", "strict") != "strict":
            reason = "the enclave would open files that are not measured"
            yield self._finding(("sgx", "file_check_policy"), reason, Danger.HOST_FILES)
        for key, reason in (
            ("debug", "the host can read the enclave's memory"),
            ("enable_stats", "statistics need a debug enclave"),
            ("vtune_profile", "profiling needs a debug enclave"),
        ):
            if sgx.get(key, False) is not False:
                yield self._finding(("sgx", key), reason, Danger.DEBUG)
        if _table(sgx, "profile").get("enable", "none") != "none":
            yield self._finding(("sgx", "profile"), "profiling needs a debug enclave", Danger.DEBUG)
        for key in ("allowed_ioctls", "ioctl_structs"):
            if _table(self._data, "sys").get(key):
                yield self._finding(("sys", key), "the data passes through the host unprotected", Danger.HOST_DEVICES)

    def _server(self) -> Iterator[LintFinding]:
        entrypoint = _table(self._data, "libos").get("entrypoint")
        argv = [str(argument) for argument in _list(_table(self._data, "loader"), "argv")]
        if not isinstance(entrypoint, str) or not argv:
            return  # the manifest reader reports the missing or invalid setting
        program = find_program(entrypoint, argv, self._places)
        if program.server is None:
            path: Path = ("libos", "entrypoint") if program.index is None else ("loader", "argv", program.index)
            setting = dotted(path)
            yield LintFinding(
                line=self._line(path), setting=setting, reason=program.reason, danger=Danger.OTHER_PROGRAM
            )
            return
        yield from self._attestation(attests=program.attests)
        arguments = argv[program.first :]
        for found in judge_flags(program, arguments, self._places, one_way_tls=self._one_way_tls):
            if found.index is None:
                beside: Path = ("loader", "argv")
                yield self._missing(f"--{found.name}", found.reason, Danger.SERVER_FLAGS, beside=beside)
                continue
            line = self._line(("loader", "argv", program.first + found.index))
            yield LintFinding(line=line, setting=f"--{found.name}", reason=found.reason, danger=Danger.SERVER_FLAGS)

    def _attestation(self, *, attests: bool) -> Iterator[LintFinding]:
        """Find variables of the other way to get the key. With both ways, or none, the enclave would not work."""
        environment = _table(_table(self._data, "loader"), "env")
        wrong = PRELOADED if attests else (DEVICE_VARIABLE,)
        reason = (
            "the program attests itself, so Gramine's provisioning library must not be loaded"
            if attests
            else f"it is only for {ATTESTER_MODULE}, which attests itself"
        )
        for name in wrong:
            if name in environment:
                path: Path = ("loader", "env", name)
                yield self._finding(path, reason, None, code=EnclaveCode.MANIFEST_INVALID_SETTING)
        if attests and DEVICE_VARIABLE not in environment:
            yield LintFinding(
                line=self._line(("loader", "env")),
                setting=dotted(("loader", "env", DEVICE_VARIABLE)),
                reason=f"it is missing, and {ATTESTER_MODULE} cannot attest without it",
                danger=None,
                code=EnclaveCode.MANIFEST_MISSING_SETTING,
            )

    def _finding(
        self,
        path: Path,
        reason: str,
        danger: Danger | None,
        *,
        code: EnclaveCode = EnclaveCode.MANIFEST_INSECURE,
    ) -> LintFinding:
        setting = dotted(path)
        return LintFinding(line=self._line(path), setting=setting, reason=reason, danger=danger, path=path, code=code)

    def _missing(self, setting: str, reason: str, danger: Danger, *, beside: Path) -> LintFinding:
        return LintFinding(line=self._line(beside), setting=f"{setting} is missing", reason=reason, danger=danger)

    def _line(self, path: Path) -> int:
        return nearest_line(self._lines, path)


def nearest_line(lines: Mapping[Path, int], path: Path) -> int:
    """Return the line of a setting, or the line of the innermost enclosing table in the text."""
    return next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), 1)


def _is_everything(path: str) -> bool:
    """Return whether a path is the root, or a relative path that leads to a parent folder."""
    normal = posixpath.normpath(path)
    return not normal.strip("/") or normal.split("/")[0] == ".."


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(parent: Mapping[str, Any], key: str) -> list[Any]:
    value = parent.get(key)
    return value if isinstance(value, list) else []
