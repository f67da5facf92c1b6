"""Trust in the CA certificates of a file, for HTTPS servers with a private certificate."""

import ssl
from pathlib import Path

from sealserve.regular_file import read_regular


def trust_only(ca_file: Path) -> ssl.SSLContext:
    """Return a context for TLS clients that trusts only the CA certificates in ``ca_file`` (PEM).

    Raises:
        InputFileError: The file cannot be read.
        ssl.SSLError: The file does not contain a PEM certificate.
    """
    # An empty text would select the system's CA certificates.
    return ssl.create_default_context(cadata=read_regular(ca_file).decode("ascii", "replace") or "-")
