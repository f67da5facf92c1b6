"""The NGINX program of this machine: its path, its version, and its stream module."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sealserve.ingress.codes import IngressCode
from sealserve.ingress.nginx_config import NginxConfig

_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/nginx/sbin")  # often missing from a user's PATH
_MODULE_FOLDERS = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
_MODULE = "ngx_stream_module.so"
_OLDEST = (1, 18, 0)
_FIRST_WITH_ERROR_LOG_OPTION = (1, 19, 5)
_INSTALL = (
    "On Debian or Ubuntu, run `apt-get install nginx libnginx-mod-stream`, then `systemctl disable --now nginx`: "
    "sealserve starts its own NGINX."
)


@dataclass(frozen=True, slots=True)
class NginxProgram:
    """An NGINX program that can pass TLS through.

    Attributes:
        path: The program.
        version: Its version.
        stream_module: The module to load, or None if it is built in.
    """

    path: Path
    version: tuple[int, int, int]
    stream_module: Path | None

    def command(self, config: NginxConfig, *, config_file: Path | None = None) -> list[str]:
        """Return the command that runs NGINX in the foreground, independently of the distribution's files and logs.

        Args:
            config: The rendered configuration.
            config_file: A different file than ``config.config_file``.
        """
        command = [str(self.path), "-p", str(config.run_folder), "-c", str(config_file or config.config_file)]
        if self.version >= _FIRST_WITH_ERROR_LOG_OPTION:  # older versions first open the log path from their build
            command += ["-e", str(config.error_log)]
        return command

    def check(self, config: NginxConfig, *, config_file: Path | None = None) -> None:
        """Let NGINX check the configuration file.

        Args:
            config: The rendered configuration.
            config_file: A different file than ``config.config_file``.

        Raises:
            UnavailableError: `ingress.config-refused` if NGINX rejects it. The message contains NGINX's reason.
        """
        command = [*self.command(config, config_file=config_file), "-t", "-q"]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if result.returncode != 0:
            raise IngressCode.CONFIG_REFUSED.error(
                f"NGINX rejects its configuration: {last_message(result.stderr)}",
                hint="Check that the host name of each replica resolves on this machine.",
            )


def find_nginx() -> NginxProgram:
    """Return this machine's NGINX, from PATH or the usual folders of distributions.

    Raises:
        UnavailableError: `ingress.nginx-missing` if it is not installed, or is older than 1.18.
        UnavailableError: `ingress.stream-module-missing` if it has no stream module with ``ssl_preread``.
    """
    search = os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_FOLDERS))
    path = shutil.which("nginx", path=search)
    if path is None:
        raise IngressCode.NGINX_MISSING.error("NGINX is not installed.", hint=_INSTALL)
    result = subprocess.run([path, "-V"], capture_output=True, text=True, errors="replace", check=False)
    return describe_build(Path(path), result.stderr)


def describe_build(path: Path, text: str) -> NginxProgram:
    """Return the properties of the program at ``path`` from the output of ``nginx -V``.

    Args:
        path: The program.
        text: The output.

    Raises:
        UnavailableError: `ingress.nginx-missing`, `ingress.stream-module-missing`: as for `find_nginx`.
    """
    found = re.search(r"nginx version: \S+/(\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise IngressCode.NGINX_MISSING.error(
            f"{path} is not NGINX: `{path} -V` does not print NGINX's version.", hint=_INSTALL
        )
    version = (int(found[1]), int(found[2]), int(found[3]))
    if version < _OLDEST:
        raise IngressCode.NGINX_MISSING.error(
            f"{path} is too old: expected NGINX 1.18 or later, got {'.'.join(map(str, version))}.", hint=_INSTALL
        )
    _, _, arguments = text.partition("configure arguments:")
    options = dict(argument.partition("=")[::2] for argument in shlex.split(arguments))
    if "--with-stream" not in options or "--with-stream_ssl_preread_module" not in options:
        raise IngressCode.STREAM_MODULE_MISSING.error(
            f"{path} was built without its stream and ssl_preread modules.",
            hint=f"Use a build that has them. {_INSTALL}",
        )
    if options["--with-stream"] != "dynamic":
        return NginxProgram(path, version, None)
    folders = [Path(options.get("--modules-path", _MODULE_FOLDERS[0])), *map(Path, _MODULE_FOLDERS)]
    for folder in folders:
        if (module := folder / _MODULE).is_file():
            return NginxProgram(path, version, module)
    raise IngressCode.STREAM_MODULE_MISSING.error(
        f"{path} lacks NGINX's stream module: {folders[0] / _MODULE} does not exist.", hint=_INSTALL
    )


def last_message(text: str) -> str:
    """Return the last important message in NGINX's output or log, without its timestamp."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    weighty = [line for line in lines if "[emerg]" in line or "[alert]" in line or "[crit]" in line]
    chosen = (weighty or lines or ["it printed no reason."])[-1]
    _, found, message = chosen.partition("[emerg] ")
    return message if found else chosen
