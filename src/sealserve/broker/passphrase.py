"""Where the master key's passphrase comes from."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from sealserve.broker.codes import BrokerCode
from sealserve.secret import SecretBytes

Passphrase = Callable[[], SecretBytes]
"""Gives the passphrase when it is needed."""

LONGEST_PASSPHRASE: Final = 1024


def no_passphrase() -> SecretBytes:
    """Give no passphrase.

    Raises:
        InputError: `keystore.passphrase-missing`: Always.
    """
    raise BrokerCode.KEYSTORE_PASSPHRASE_MISSING.error(
        "The master key is under a passphrase, and nobody is here to type it.",
        hint="Run this at a terminal, or name a file (0600) with keystore.passphrase_file in sealserve.toml.",
    )


ASK_PASSPHRASE: Final[ContextVar[Passphrase]] = ContextVar("ASK_PASSPHRASE", default=no_passphrase)
"""Asks the person at the terminal; the command line sets it where there is one."""
