"""The remote broker that `sealserve --broker URL` names, for the command that runs now.

Only commands that never read the owner's files work with a remote broker. Every other command reads the workspace, and
`require_local` refuses that. A new command is therefore refused until it supports a remote broker.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.cli.codes import CliCode

VERB: Final = "broker"
"""The only verb that supports a remote broker."""
FILE_VARIABLE: Final = "SEALSERVE_ADMINISTRATOR"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBroker:
    """The address of a broker's administration port, and the administrator file."""

    url: str
    administrator: Path


_chosen: Final[ContextVar[RemoteBroker | None]] = ContextVar("remote_broker", default=None)


def choose(url: str | None, administrator: Path | None, verb: str | None) -> None:
    """Store the options of the root command.

    Args:
        url: The value of ``--broker``, or `None` for the broker of the workspace.
        administrator: The value of ``--administrator``.
        verb: The verb that runs.

    Raises:
        InputError: `usage.arguments` if the verb does not support a remote broker.
        InputError: `usage.missing` if the administrator file is missing.
    """
    _chosen.set(None)
    if url is None:
        return
    if verb != VERB:
        raise CliCode.USAGE_ARGUMENTS.error(
            f"--broker cannot be used with `sealserve {verb}`: expected `sealserve --broker URL broker ...`.",
            hint="Remove --broker. Without it, the commands use the workspace on this machine.",
        )
    if administrator is None:
        raise CliCode.USAGE_MISSING.error(
            "--broker requires the administrator file.",
            hint=f"Specify the owner's file with `--administrator FILE`, or in {FILE_VARIABLE}.",
        )
    _chosen.set(RemoteBroker(url=url, administrator=administrator))


def chosen() -> RemoteBroker | None:
    """Return the remote broker of the command that runs now, or None for the broker of the workspace."""
    return _chosen.get()


def require_local(what: str = "Only the owner has the files that it reads") -> None:
    """Check that the command does not use a remote broker.

    Raises:
        InputError: `broker.owner-machine` if it does.
    """
    if (remote := chosen()) is not None:
        raise CliCode.BROKER_OWNER_MACHINE.error(
            f"{what}, so this command cannot run over {remote.url}.",
            hint="Run it on the owner's machine, in the folder of sealserve.toml, without --broker.",
        )
