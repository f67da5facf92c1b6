"""The root command: which verbs there are, and how errors end."""

import contextlib
import errno
import importlib
import io
import logging
import os
import select
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer
from typer._click.exceptions import ClickException, NoArgsIsHelpError
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sealserve import __version__, interruptions
from sealserve.cli import console, deprecations, extras, help_texts, passphrases, usage_errors
from sealserve.cli.codes import CliCode
from sealserve.errors import InputError, SealserveError

INTERRUPTED = 130
UNREAD = 0  # the reader of a pipe has gone away, with all that it wanted: `release show | head -1`
OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Verb(NamedTuple):
    """A verb: the module that holds it, the heading that it is listed under, and the first paragraph of its help."""

    module: str
    panel: str
    summary: str


VERBS = {
    "demo": Verb(
        "demo", "Start here", "Run the twelve steps of confidential serving on this machine, with real parts."
    ),
    "init": Verb("init", "Start here", "Write sealserve.toml for a model of yours, and create the workspace."),
    "doctor": Verb("doctor", "Start here", "Say what this machine lacks for its part, and how to get it."),
    "cloud": Verb("cloud", "Start here", "Look at clouds that have SGX machines: sizes, images, addresses."),
    "model": Verb("model", "Owner", "Fetch, convert and show models."),
    "certs": Verb("certs", "Owner", "Make, show and renew certificates."),
    "user": Verb("user", "Owner", "Manage the users of the service: add, list, renew, revoke."),
    "seal": Verb("seal", "Owner", "Seal a file or a folder, interchangeable with gramine-sgx-pf-crypt."),
    "unseal": Verb("unseal", "Owner", "Unseal a file or a folder. A failure leaves no output."),
    "inspect": Verb(
        "inspect",
        "Owner",
        "Show a sealed file. Without a key: its public part, of which nothing is authenticated. Nothing is written.",
    ),
    "release": Verb("release", "Owner", "Build, ship, verify and list releases."),
    "enclave": Verb("enclave", "Owner", "Build, show and run enclaves."),
    "backup": Verb(
        "backup",
        "Owner",
        "Write the owner's workspace to one sealed file, without the master key: keep a copy of that elsewhere.",
    ),
    "restore": Verb(
        "restore",
        "Owner",
        "Bring the owner's workspace back from a backup, whole or not at all, into a folder that has none.",
    ),
    "broker": Verb("broker", "Owner", "Run the broker, and say which releases get their key."),
    "quote": Verb("quote", "Owner", "Show and verify SGX quotes."),
    "image": Verb("image", "Owner", "Build and push the container images."),
    "up": Verb(
        "up",
        "Run it",
        "Make what runs match sealserve.toml. A changed setting or model that is sealed needs a new release, "
        "after asking.",
    ),
    "status": Verb("status", "Run it", "Show the deployment and its parts. The exit status is 0 only if all is well."),
    "logs": Verb("logs", "Run it", "Show the logs of all parts or of one part, ordered by time. Times are in UTC."),
    "scale": Verb(
        "scale", "Run it", "Start or stop replicas. Those that stop finish their requests first. `up` keeps the number."
    ),
    "down": Verb(
        "down",
        "Run it",
        "Stop everything that `up` started, wherever it runs. The workspace stays: keys, releases, logs.",
    ),
    "service": Verb("service", "Run it", "Let systemd run the broker, or a deployment on this machine."),
    "render": Verb("render", "Run it", "Write the files that a target would apply."),
    "predict": Verb("predict", "User", "Send one request to the service, over TLS that ends inside the enclave."),
    "bench": Verb("bench", "User", "Send many requests, and show rate, latencies and how the replicas shared them."),
    "client": Verb("client", "User", "Pack what a user needs to call the service into one file, and read such files."),
    "simulated": Verb(
        "simulated",
        "Without SGX",
        "Stand-ins for SGX. Every format and signature is genuine, and nothing is protected from the host's root.",
    ),
}


class _UnreadError(Exception):
    """Nobody reads standard output any more."""


class LazyGroup(TyperGroup):
    """A group that imports a verb's module when the verb is asked for: `sealserve predict` loads no database."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(VERBS, self)  # their names are what a misspelt one is compared with
        self._lists = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs in the order in which people meet them."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the verb's command, or None for an unknown one."""
        del ctx
        if (verb := VERBS.get(cmd_name)) is None:
            return None
        if self._lists:
            return TyperCommand(cmd_name, help=help_texts.literal(verb.summary), rich_help_panel=verb.panel)
        command: Any = get_command(importlib.import_module(f"sealserve.cli.{verb.module}").app)
        command.name = cmd_name
        command.rich_help_panel = verb.panel
        help_texts.make_literal(command)
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, which lists the verbs: for that no verb's module is imported."""
        with self._listing():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the verbs that begin like ``incomplete``; for that no verb's module is imported."""
        with self._listing():
            return super().shell_complete(ctx, incomplete)

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        self._lists = True
        try:
            yield
        finally:
            self._lists = False

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the verb that the first argument names.

        Raises:
            InputError: `usage.command`: There is no such verb; the hint names the one that was probably meant.
        """
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise usage_errors.unknown_command(args[0], ctx.command_path, list(VERBS))
        found: tuple[str | None, Any, list[str]] = super().resolve_command(ctx, args)
        return found

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. That nobody reads its output any more is ours to report, and not click's."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno != errno.EPIPE or error.filename is not None:
                raise
            if _is_unread():
                raise _UnreadError from error
            raise CliCode.CONNECTION_LOST.error(
                "A connection was lost: the other side closed it.", hint="Try again."
            ) from error


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


def run(arguments: list[str]) -> int:
    """Run the command line with ``arguments``; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our characters still gets the rest
    interruptions.deliver()
    passphrases.ask_at_terminal()
    console.show_errors_to_people()
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
        console.print_error(CliCode.OUTPUT_UNWRITABLE.error(f"Standard output cannot be written: {error.strerror}."))
        return CliCode.OUTPUT_UNWRITABLE.family.exit_status
    return status


def _run(arguments: list[str]) -> int:
    try:
        return _invoke(arguments)
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


def _invoke(arguments: list[str]) -> int:
    """Run the command line; errors in how it is typed become our own."""
    try:
        status = get_command(app).main(arguments, prog_name="sealserve", standalone_mode=False)
    except NoArgsIsHelpError:  # a group without a command: its help was printed
        return InputError.exit_status
    except ClickException as error:
        raise usage_errors.explain(error) from error
    except ModuleNotFoundError as error:  # the base installation has what a client needs, and no more
        raise extras.missing_extra(error, arguments[0]) or error from error
    except typer.Abort as end:  # a question that got no answer, or the answer "no"
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from end
        console.say("Aborted.")
        return SealserveError.exit_status
    return status if isinstance(status, int) else 0  # the status of `typer.Exit`


def _report(error: Exception, *, as_json: bool) -> int:
    """Report what no part of sealserve foresaw: the system's own word on a file, or nothing but the error's kind."""
    if isinstance(error, OSError) and error.filename is not None:
        refused = CliCode.FILE_REFUSED.error(f"{error.strerror}: {os.fsdecode(error.filename)}.")
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
