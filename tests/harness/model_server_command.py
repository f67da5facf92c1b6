"""A command line of the model server that a manifest may have; tests that build enclaves do not start it."""

import sys
from typing import Final

PROGRAM: Final = sys.executable
COMMAND: Final = (
    PROGRAM,
    "-m",
    "sealserve.serving",
    "--port=8500",
    "--ssl_config_file=/release/tls/ssl.cfg",
    "--file_list=/release/files.json",
    "--file_system_poll_wait_seconds=0",
)
