"""OpenSSL settings that must be set before OpenSSL loads: no TLS 1.3 session tickets.

Gramine 1.8's client closes a TLS 1.3 session when the server sends a NewSessionTicket (mbedTLS 3.6.0, error -31488).
pyOpenSSL cannot turn tickets off: ``OP_NO_TICKET`` and ``SESS_CACHE_OFF`` still send two. A configuration file with
``NumTickets = 0`` works. OpenSSL reads it when it is loaded for the first time.

Therefore this module imports only the standard library, and ``sealserve broker run`` calls `ensure_no_tickets` before
any module imports ``cryptography``.

Source: config(5) "SSL Configuration", SSL_CONF_cmd(3) "NumTickets"; gramine, ``tools/sgx/ra-tls/secret_prov_attest.c``.
"""

import os
import sys
from pathlib import Path
from typing import Final

VARIABLE: Final = "OPENSSL_CONF"
FILE_NAME: Final = "broker-openssl.cnf"
_CONTENT: Final = """\
# Written by `sealserve broker run`. Gramine 1.8's client fails when a TLS 1.3 server sends a session ticket.
openssl_conf = openssl_init

[openssl_init]
ssl_conf = ssl_sect

[ssl_sect]
system_default = system_default_sect

[system_default_sect]
NumTickets = 0
"""


def openssl_environment(folder: Path) -> dict[str, str]:
    """Write the configuration file into ``folder``. Return the environment variable that points to it.

    Args:
        folder: An existing folder that only the broker's user can write to.
    """
    path = folder.absolute() / FILE_NAME
    if not path.is_file() or path.read_text(encoding="utf-8") != _CONTENT:
        temporary = path.with_name(f".{FILE_NAME}.{os.getpid()}.partial")
        temporary.write_text(_CONTENT, encoding="utf-8")
        temporary.chmod(0o600)
        temporary.replace(path)
    return {VARIABLE: str(path)}


def ensure_no_tickets(folder: Path) -> None:
    """Restart this process with the configuration file in its environment, unless it already has this environment.

    The process keeps its id, its open files and its arguments. Call this first, while the process has only one thread.

    Args:
        folder: The folder for the configuration file, see `openssl_environment`.
    """
    wanted = openssl_environment(folder)
    if os.environ.get(VARIABLE) == wanted[VARIABLE]:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})  # noqa: S606  # itself
