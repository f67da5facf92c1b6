"""The root command: the list of verbs, and the conversion of errors to exit statuses."""

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
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer._click.exceptions import ClickException, NoArgsIsHelpError
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sealserve import __version__, interruptions
from sealserve.cli import console, deprecations, extras, help_texts, passphrases, remote_broker, usage_errors
from sealserve.cli.codes import CliCode
from sealserve.errors import InputError, SealserveError

INTERRUPTED = 130
UNREAD = 0  # the reader of the pipe has ended after it read what it needed: `release show | head -1`
OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Verb(NamedTuple):
    """A verb: its module, the heading of its group in the help, and the first paragraph of its help."""

    module: str
    panel: str
    summary: str


VERBS = {
    "demo": Verb("demo", "Start here", "Run the twelve steps of confidential serving on this machine."),
    "init": Verb("init", "Start here", "Write sealserve.toml for your model, and create the workspace."),
    "doctor": Verb(
        "doctor",
        "Start here",
        "Check whether this machine meets the requirements of its role, and explain how to fix each gap.",
    ),
    "cloud": Verb("cloud", "Start here", "Show clouds with SGX machines: sizes, images, addresses, sources."),
    "model": Verb("model", "Owner", "Fetch, convert, check and show models."),
    "certs": Verb("certs", "Owner", "Create, show and renew certificates."),
    "user": Verb(
        "user", "Owner", "Manage the users of the service: add, list, renew, revoke. As a user: trust an owner."
    ),
    "seal": Verb("seal", "Owner", "Encrypt a file or a folder in the format of gramine-sgx-pf-crypt."),
    "unseal": Verb("unseal", "Owner", "Decrypt a sealed file or folder. A failure leaves no output."),
    "inspect": Verb(
        "inspect", "Owner", "Show the header of a sealed file, and with --key-file its decrypted metadata."
    ),
    "release": Verb("release", "Owner", "Build, ship, verify, compare and list releases."),
    "enclave": Verb("enclave", "Owner", "Build, show and run enclaves."),
    "backup": Verb("backup", "Owner", "Write the owner's workspace to one encrypted file, without the master key."),
    "restore": Verb(
        "restore", "Owner", "Restore the owner's workspace from a backup, into a folder without a workspace."
    ),
    "broker": Verb("broker", "Owner", "Run the broker, and manage which releases get their key."),
    "quote": Verb("quote", "Owner", "Show and verify SGX quotes."),
    "image": Verb("image", "Owner", "Build and push the container images."),
    "up": Verb("up", "Run it", "Start the deployment, or change it to match sealserve.toml."),
    "status": Verb("status", "Run it", "Show the state of the deployment and its parts."),
    "logs": Verb("logs", "Run it", "Show the logs of all parts or of one part, ordered by time (UTC)."),
    "scale": Verb("scale", "Run it", "Start or stop replicas."),
    "down": Verb("down", "Run it", "Stop everything that `up` started. Keys, releases and logs stay in the workspace."),
    "service": Verb("service", "Run it", "Install systemd units for the broker, or for a deployment on this machine."),
    "render": Verb("render", "Run it", "Write the files that a target would apply."),
    "predict": Verb("predict", "User", "Send one request to the service, over TLS that ends inside the enclave."),
    "verify": Verb(
        "verify",
        "User",
        "Verify that a service is an enclave that your policy accepts, in six steps. Nothing else is sent to it.",
    ),
    "receipt": Verb(
        "receipt",
        "User",
        "Verify receipts: an enclave's signed statements that it computed a response from a request.",
    ),
    "bench": Verb("bench", "User", "Send many requests, and show the rate, the latencies and each replica's share."),
    "proxy": Verb("proxy", "User", "Forward clients on this machine to the service, after its enclave was verified."),
    "client": Verb(
        "client", "User", "Create and read client bundles: files with everything that a user needs to call the service."
    ),
    "simulated": Verb(
        "simulated",
        "Without SGX",
        "Run simulated SGX services. Formats and signatures are genuine, but the host's root can read everything.",
    ),
}


class _UnreadError(Exception):
    """The reader of standard output has closed it."""


class LazyGroup(TyperGroup):
    """A group that imports the module of a verb only to run that verb. `sealserve predict` thus loads no database."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(VERBS, self)  # the names with which a misspelled verb is compared
        self._lists = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs in the order of the help: first steps first."""
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
        """Write the help with the list of verbs. No verb's module is imported for this."""
        for parameter in self.get_params(ctx):
            help_texts.shorten(parameter)
        with self._listing():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the verbs that begin with ``incomplete``. No verb's module is imported for this."""
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
            InputError: `usage.command`: The verb does not exist. The hint names a similar verb.
        """
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise usage_errors.unknown_command(args[0], ctx.command_path, list(VERBS))
        found: tuple[str | None, Any, list[str]] = super().resolve_command(ctx, args)
        return found

    def invoke(self, ctx: Any) -> Any:
        """Run the verb, and report a broken pipe as sealserve's own error instead of click's."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno != errno.EPIPE or error.filename is not None:
                raise
            if _is_unread():
                raise _UnreadError from error
            raise CliCode.CONNECTION_LOST.error(
                "A network connection failed: the other side closed it.", hint="Run the command again."
            ) from error


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serve sealed TensorFlow models from attested enclaves, on machines that you do not trust.",
    epilog="Run `sealserve demo` to see every step on this machine, and `sealserve VERB --help` for each verb. "
    "Errors have stable codes. Most verbs have the option `--json` for use in programs.",
)


def _version(value: bool) -> None:
    if value:
        console.out.print(f"sealserve {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit")
    ] = False,
    broker: Annotated[
        str | None,
        typer.Option(
            "--broker",
            metavar="URL",
            help="Administration address of a remote broker, https://HOST:PORT, for `sealserve broker`",
            show_default="the broker of the workspace",
        ),
    ] = None,
    administrator: Annotated[
        Path | None,
        typer.Option(
            "--administrator",
            envvar=remote_broker.FILE_VARIABLE,
            help="Administrator file for --broker (mode 0600)",
            show_default="none",
        ),
    ] = None,
) -> None:
    del version  # its callback has already run
    remote_broker.choose(broker, administrator, context.invoked_subcommand)


def run(arguments: list[str]) -> int:
    """Run the command line with ``arguments``; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a replacement
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
    except OSError as error:  # the reader closed the pipe, or the disk is full
        unread = error.errno == errno.EPIPE and _is_unread()
        _discard_output()
        if unread:
            return UNREAD
        console.print_error(
            CliCode.OUTPUT_UNWRITABLE.error(
                f"Standard output cannot be written: {error.strerror}.",
                hint="Check the file or device to which the output is redirected, and its free space.",
            )
        )
        return CliCode.OUTPUT_UNWRITABLE.family.exit_status
    return status


def _run(arguments: list[str]) -> int:
    try:
        return _invoke(arguments)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # click and Rich exit this way if the reader is gone
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
    """Run the command line, and convert click's usage errors to sealserve's errors."""
    try:
        status = get_command(app).main(arguments, prog_name="sealserve", standalone_mode=False)
    except NoArgsIsHelpError:  # a group without a command: click has printed its help
        return InputError.exit_status
    except ClickException as error:
        raise usage_errors.explain(error) from error
    except ModuleNotFoundError as error:  # the base installation has only the packages of the client
        raise extras.missing_extra(error, arguments[0]) or error from error
    except typer.Abort as end:  # a question without an answer, or with the answer "no"
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from end
        if isinstance(end.__context__, EOFError):  # for example in a script: a program must be able to read the reason
            raise CliCode.USAGE_MISSING.error(
                "The command asked a question, but standard input ended without an answer.",
                hint="Run the command at a terminal. To confirm without a question, add --yes.",
            ) from end
        console.say("Aborted.")
        return SealserveError.exit_status
    return status if isinstance(status, int) else 0  # the status of `typer.Exit`


def _report(error: Exception, *, as_json: bool) -> int:
    """Report an unexpected exception: the system's message about a file, else only the type of the exception."""
    if isinstance(error, OSError) and error.filename is not None:
        refused = CliCode.FILE_REFUSED.error(
            f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}.",
            hint="Check that the path exists, and that your user may read and write it.",
        )
        console.print_error(refused, as_json=as_json)
        return refused.exit_status
    console.print_error(
        SealserveError(
            f"An unexpected error occurred: {type(error).__name__}. This is a bug in sealserve.",
            hint="Run the command again with SEALSERVE_DEBUG=1, and report the traceback that it prints.",
        ),
        as_json=as_json,
    )
    return SealserveError.exit_status


def _is_unread() -> bool:
    """Return whether standard output is a pipe or a connection whose reader has closed it.

    A lost connection to a server raises the same error, but is a different case.
    """
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard_output() -> None:
    """Discard buffered output, so that the interpreter does not report an error for it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
