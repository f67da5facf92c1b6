"""Sources of the master key's passphrase."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from sealserve.broker.codes import BrokerCode
from sealserve.secret import SecretBytes

Passphrase = Callable[[], SecretBytes]
"""A function that returns the passphrase when it is needed."""

LONGEST_PASSPHRASE: Final = 1024


def no_passphrase() -> SecretBytes:
    """Raise an error, because no source of the passphrase is available.

    Raises:
        InputError: `keystore.passphrase-missing`, always.
    """
    raise BrokerCode.KEYSTORE_PASSPHRASE_MISSING.error(
        "The master key is encrypted with a passphrase, but no terminal is available to ask for it.",
        hint="Run this command at a terminal, or set keystore.passphrase_file in sealserve.toml to a 0600 file.",
    )


ASK_PASSPHRASE: Final[ContextVar[Passphrase]] = ContextVar("ASK_PASSPHRASE", default=no_passphrase)
"""Asks for the passphrase at the terminal. The command line sets this variable if a terminal is available."""
