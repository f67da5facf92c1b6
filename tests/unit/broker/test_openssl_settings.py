import json
import os
import subprocess
import sys
from pathlib import Path

from sealserve.broker.openssl_settings import openssl_environment

_SCRIPT = """
import json, os, sys
from pathlib import Path
from sealserve.broker.openssl_settings import ensure_no_tickets
loaded = "cryptography" in sys.modules or "OpenSSL" in sys.modules
ensure_no_tickets(Path(sys.argv[1]))
print(json.dumps([loaded, os.getpid(), os.environ["OPENSSL_CONF"], sys.argv[2]]))
"""


def test_the_file_says_no_tickets_and_is_private(tmp_path: Path) -> None:
    named = Path(openssl_environment(tmp_path)["OPENSSL_CONF"])
    assert named.parent == tmp_path
    assert "NumTickets = 0" in named.read_text().splitlines()
    assert named.stat().st_mode & 0o777 == 0o600
    named.write_text("changed")
    openssl_environment(tmp_path)
    assert "NumTickets = 0" in named.read_text()
    assert [path.name for path in tmp_path.iterdir()] == [named.name]


def test_the_process_starts_again_once_with_the_same_arguments(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(tmp_path), "an argument"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        output, _ = process.communicate()
    loaded, pid, named, argument = json.loads(output)
    assert process.returncode == 0
    assert not loaded  # no module loaded OpenSSL earlier
    assert pid == process.pid
    assert Path(named).parent == tmp_path
    assert argument == "an argument"
