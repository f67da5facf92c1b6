"""The example in the documentation of the public API, run against the real model server."""

import io
import textwrap
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tests.harness.model_server import Start, Tls

from sealserve import client

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]


def example(port: int) -> str:
    """Return the code of the docstring, with the server's port."""
    assert client.__doc__
    text = client.__doc__.partition("leave out ``certificate`` and ``key``::\n\n")[2]
    code = textwrap.dedent(text.partition("\n\nExample")[0])
    assert '"127.0.0.1:8500"' in code
    return code.replace("127.0.0.1:8500", f"127.0.0.1:{port}")


def test_the_example_runs(start: Start, model: Path, tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssl.cfg").write_bytes(tls.settings(two_way=True))
    server = start(f"--model_base_path={model}", "--model_name=half_plus_two", f"--ssl_config_file={tmp_path}/ssl.cfg")
    user = tmp_path / ".sealserve" / "user"
    user.mkdir(parents=True)
    (user / "service-ca.pem").write_bytes(tls.service.certificate_pem)
    (user / "client.pem").write_bytes(tls.client.chain_pem)
    (user / "client.key").write_bytes(tls.client.key_pem.reveal())
    port = int(server.wait_for(r"serving half_plus_two version 1 on 127\.0\.0\.1:(\d+)")[1])
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(example(port), "example", "exec"), {})  # noqa: S102  # our own documentation
    assert printed.getvalue() == "float32\n1 [2.5 3. ]\n"
