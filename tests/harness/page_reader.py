"""A reader who types the commands of a page in an empty folder, and compares their output with the page.

What differs from a reader's machine: the folder is a temporary one, and the ports are free ones.
"""

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from tests.harness.pages import Block, Command, WrittenFile, shows_all, shows_some, steps
from tests.harness.terminal import Terminal

from sealserve.cluster import ports
from sealserve.ingress.nginx_program import find_nginx

ROOT: Final = Path(__file__).resolve().parents[2]
PORTS: Final = (8500, 8501, 4433, 4434, 8081, 8510, 8511)
DEPLOYMENT_FILE: Final = "sealserve.toml"
SECONDS: Final = 600  # for one command, on a busy machine


class Reader:
    """Executes the commands of a page in an empty folder.

    Args:
        page: The page.
        folder: The folder. A ``sealserve.toml`` that is already in it is not changed.
        variables: Variables that the reader's shell has in addition.
    """

    def __init__(self, page: Path, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self._page = page
        self._folder = folder
        self._ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self._terminals: dict[int, Terminal] = {}
        self._open = ExitStack()
        self._described = (folder / DEPLOYMENT_FILE).exists()
        self._environment = {**_environment(), **(variables or {})}

    def read(self) -> None:
        """Do everything on the page that is executed: run its commands, and write its files."""
        for step in steps(self._page):
            if isinstance(step, WrittenFile):
                (self._folder / step.path).write_text(step.text, encoding="utf-8")
            elif step.skipped is None:
                self.follow(step)
        assert self.running() == [], f"{self._page}: the last commands leave processes behind"

    def follow(self, block: Block) -> None:
        """Run a block's commands, and compare their output with the page."""
        if block.terminal not in self._terminals:
            opened = self._open.enter_context(Terminal(self._folder, self._environment))
            self._terminals[block.terminal] = opened
        terminal = self._terminals[block.terminal]
        following = [command.text for command in block.commands[1:]] + [""]
        for command, then in zip(block.commands, following, strict=True):
            ready_port = block.ready_port if then == "" else None
            if command.runs_on:
                self._start(terminal, command, ready_port)
            else:
                self._run(terminal, command, may_fail=then == "echo $?")
            self._take_free_ports()

    def running(self) -> list[int]:
        """Return the processes that run in the reader's terminals."""
        return [process for terminal in self._terminals.values() for process in terminal.processes()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _start(self, terminal: Terminal, command: Command, ready_port: int | None) -> None:
        expected = [self._with_free_ports(line) for line in command.output]
        port = self._ports[ready_port] if ready_port is not None else None
        assert expected or port, f"{self._where(command)}: nothing says when it is ready"

        def ready(lines: list[str]) -> bool:
            return shows_some(expected, lines) and (port is None or not ports.is_free(port))

        terminal.start(self._with_free_ports(command.text), ready, timeout=SECONDS)

    def _run(self, terminal: Terminal, command: Command, *, may_fail: bool) -> None:
        alone = not terminal.processes()
        result = terminal.run(self._with_free_ports(command.text), timeout=SECONDS)
        seen = "\n".join(result.lines)
        assert may_fail or result.status == 0, f"{self._where(command)}: exit status {result.status}:\n{seen}"
        expected = [self._with_free_ports(line) for line in command.output]
        shown = shows_all(expected, result.lines) if alone else shows_some(expected, result.lines)
        assert shown, f"{self._where(command)}: it printed\n{seen}\nand the page says\n" + "\n".join(expected)

    def _with_free_ports(self, text: str) -> str:
        return re.sub(rf"\b(?:{'|'.join(map(str, PORTS))})\b", lambda found: str(self._ports[int(found[0])]), text)

    def _take_free_ports(self) -> None:
        """Let the deployment file name free ports, as soon as there is one."""
        path = self._folder / DEPLOYMENT_FILE
        if not self._described and path.exists():
            text = path.read_text(encoding="utf-8")
            lines = with_broker_settings(text).splitlines()
            settings = (self._with_free_ports(line) if "=" in line else line for line in lines)
            path.write_text("\n".join(settings) + "\n", encoding="utf-8")
            self._described = True

    def _where(self, command: Command) -> str:
        return f"{self._page.relative_to(ROOT)}:{command.line}: {command.text}"


def with_broker_settings(text: str) -> str:
    """Return a deployment file that sets the ports which the short one leaves at their defaults."""
    wanted = {"port": "4433", "collateral_url": '"http://127.0.0.1:8081"'}
    set_already = tomllib.loads(text).get("broker", {})
    lines = [f"{key} = {value}" for key, value in wanted.items() if key not in set_already]
    if re.search(r"^\[broker\]", text, flags=re.MULTILINE) is None:
        return "\n".join([text, "[broker]", *lines, ""])
    return re.sub(r"^(\[broker\].*)$", lambda found: "\n".join([found[1], *lines]), text, flags=re.MULTILINE)


def _free_ports(count: int) -> Iterator[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(ports.find_free())
    return iter(found)


def _environment() -> dict[str, str]:
    """Return what a reader's shell has: sealserve and nginx on its path, and nothing that changes Python or output."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "SEALSERVE", "PYTEST", "COV_", "COVERAGE", "FORCE_COLOR", "TF_"))
    }
    folders = [str(Path(sys.executable).parent), str(find_nginx().path.parent), inherited.get("PATH", os.defpath)]
    return {**inherited, "PATH": os.pathsep.join(folders)}
