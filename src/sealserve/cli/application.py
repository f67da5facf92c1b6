"""The root command: which verbs there are, and how errors end."""

import errno
import importlib
import io
import logging
import os
import select
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from sealserve import __version__
from sealserve.cli import console, deprecations, help_texts, passphrases
from sealserve.errors import SealserveError, UnavailableError

INTERRUPTED = 130
UNREAD = 0  # the reader of a pipe has gone away, with all that it wanted: `release show | head -1`
OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


class OutputError(UnavailableError):
    """Standard output cannot be written."""

    code = "output.unwritable"


class ConnectionLostError(UnavailableError):
    """The other side of a connection closed it, and no other error says why."""

    code = "connection.lost"


class FileRefusedError(UnavailableError):
    """The system refuses to do something with a file, for a reason that no other error names."""

    code = "file.refused"


class Verb(NamedTuple):
    """A verb: the module that holds it, and the heading it stands under in the help."""

    module: str
    panel: str


VERBS = {
    "demo": Verb("demo", "Start here"),
    "init": Verb("init", "Start here"),
    "doctor": Verb("doctor", "Start here"),
    "cloud": Verb("cloud", "Start here"),
    "model": Verb("model", "Owner"),
    "certs": Verb("certs", "Owner"),
    "seal": Verb("seal", "Owner"),
    "unseal": Verb("unseal", "Owner"),
    "inspect": Verb("inspect", "Owner"),
    "release": Verb("release", "Owner"),
    "enclave": Verb("enclave", "Owner"),
    "backup": Verb("backup", "Owner"),
    "restore": Verb("restore", "Owner"),
    "broker": Verb("broker", "Owner"),
    "quote": Verb("quote", "Owner"),
    "image": Verb("image", "Owner"),
    "up": Verb("up", "Run it"),
    "status": Verb("status", "Run it"),
    "logs": Verb("logs", "Run it"),
    "scale": Verb("scale", "Run it"),
    "down": Verb("down", "Run it"),
    "render": Verb("render", "Run it"),
    "predict": Verb("predict", "User"),
    "bench": Verb("bench", "User"),
    "simulated": Verb("simulated", "Without SGX"),
}


class _UnreadError(Exception):
    """Nobody reads standard output any more."""


class LazyGroup(TyperGroup):
    """A group that imports a verb's module when the verb is asked for: `sealserve predict` loads no database."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(VERBS, self)  # their names are what a misspelt one is compared with

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs in the order in which people meet them."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the verb's command, or None for an unknown one."""
        del ctx
        if (verb := VERBS.get(cmd_name)) is None:
            return None
        command: Any = get_command(importlib.import_module(f"sealserve.cli.{verb.module}").app)
        command.name = cmd_name
        command.rich_help_panel = verb.panel
        help_texts.make_literal(command)
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. That nobody reads its output any more is ours to report, and not click's."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno != errno.EPIPE or error.filename is not None:
                raise
            if _is_unread():
                raise _UnreadError from error
            raise ConnectionLostError("A connection was lost: the other side closed it.", hint="Try again.") from error


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serve TensorFlow models, sealed, from attested enclaves on machines that you do not trust.",
    epilog="`sealserve demo` shows the whole way on this machine. Errors have stable codes; `--json` is for programs.",
)


def _version(value: bool) -> None:
    if value:
        console.out.print(f"sealserve {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    pass


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Run the command line with ``arguments``; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our characters still gets the rest
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # one that was ignored from the start, as by nohup, stays so
            signal.signal(number, _terminated)
    passphrases.ask_at_terminal()
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    try:
        with deprecations.shown_once():
            status = _run(arguments)
        sys.stdout.flush()
    except _UnreadError:
        _discard_output()
        return UNREAD
    except OSError as error:  # nobody reads what we print, or there is no room for it
        unread = error.errno == errno.EPIPE and _is_unread()
        _discard_output()
        if unread:
            return UNREAD
        console.print_error(OutputError(f"Standard output cannot be written: {error.strerror}."))
        return OutputError.exit_status
    return status


def _run(arguments: list[str]) -> int:
    try:
        get_command(app).main(arguments, prog_name="sealserve")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer prints help, and click and Rich end so by themselves
            raise _UnreadError from end
        return end.code if isinstance(end.code, int) else 0
    except SealserveError as error:
        console.print_error(error, as_json="--json" in arguments)
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except _UnreadError:
        raise
    except Exception as error:
        if os.environ.get("SEALSERVE_DEBUG"):
            traceback.print_exception(error)
        if isinstance(error, OSError) and error.filename is None and error.errno in OUTPUT_ERRORS:
            raise
        return _report(error, as_json="--json" in arguments)
    return 0


def _report(error: Exception, *, as_json: bool) -> int:
    """Report what no part of sealserve foresaw: the system's own word on a file, or nothing but the error's kind."""
    if isinstance(error, OSError) and error.filename is not None:
        refused = FileRefusedError(f"{error.strerror}: {os.fsdecode(error.filename)}.")
        console.print_error(refused, as_json=as_json)
        return refused.exit_status
    console.print_error(
        SealserveError(
            f"{type(error).__name__} (this is a bug).",
            hint="Run it again with SEALSERVE_DEBUG=1 to see where, and report that.",
        ),
        as_json=as_json,
    )
    return SealserveError.exit_status


def _is_unread() -> bool:
    """Return whether standard output is a pipe or a connection whose reader has gone away.

    A lost connection to a server is another matter, though the system reports it with the same error.
    """
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard_output() -> None:
    """Let what is buffered for standard output go nowhere, so that the interpreter's end says nothing of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
