"""Ask for passphrases at the terminal. A passphrase is never shown, and never part of the command line."""

import sys
from pathlib import Path

import typer

from sealserve.broker.passphrase import ASK_PASSPHRASE, LONGEST_PASSPHRASE, Passphrase, no_passphrase
from sealserve.private_file import read_private
from sealserve.secret import SecretBytes


def ask_at_terminal() -> None:
    """Ask for the master key's passphrase when it is needed, if standard input is a terminal."""
    if sys.stdin.isatty():
        ASK_PASSPHRASE.set(lambda: _ask("Passphrase of the master key", again=False))


def new_source(path: Path | None) -> Passphrase:
    """Return the source of a new passphrase: the file, or a prompt at the terminal that asks for it twice."""
    if path is not None:
        return lambda: read_private(path, what="passphrase", limit=LONGEST_PASSPHRASE)
    if not sys.stdin.isatty():
        return no_passphrase
    return lambda: _ask("New passphrase of the master key", again=True)


def _ask(question: str, *, again: bool) -> SecretBytes:
    answer: str = typer.prompt(question, hide_input=True, confirmation_prompt=again, err=True)
    return SecretBytes(answer.encode())
