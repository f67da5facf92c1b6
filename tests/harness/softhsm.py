"""Tokens of SoftHSM, a PKCS#11 token in software. SoftHSM reads the path of its tokens from the environment."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripts.softhsm import found

PIN = "ten-Thousand-9"
SO_PIN = "officer-4711"

# `C_GenerateKey` and `C_DestroyObject` in a process of their own: SoftHSM reads its configuration once in a process.
_CREATE = """
import sys
import pkcs11
from pkcs11 import Attribute
module, token, pin, key, extractable, kind = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin)
exported = extractable == "yes"
template = {Attribute.SENSITIVE: not exported, Attribute.EXTRACTABLE: exported}
session.generate_key(pkcs11.KeyType[kind], 256, store=True, label=key, template=template)
"""
_DELETE = """
import sys
import pkcs11
module, token, pin, key = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin)
for found in session.get_objects({pkcs11.Attribute.LABEL: key}):
    found.destroy()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftHsm:
    """A token with the label ``owner``, and the key ``sealserve`` in it.

    Args:
        folder: The folder of the tokens and the configuration.
        program: The program ``softhsm2-util``.
        module: The PKCS#11 module.
    """

    folder: Path
    program: Path
    module: Path

    @property
    def pin_file(self) -> Path:
        """The file with the PIN."""
        return self.folder / "pin"

    @property
    def settings(self) -> dict[str, Any]:
        """``[keystore]`` of ``sealserve.toml``."""
        return {
            "kind": "pkcs11",
            "pkcs11_module": self.module,
            "pkcs11_token": "owner",
            "pkcs11_pin_file": self.pin_file,
        }

    def write_pin(self, pin: str) -> None:
        """Replace the file with the PIN."""
        fresh = self.pin_file.with_name("pin.new")
        fresh.touch(mode=0o600)
        fresh.write_text(f"{pin}\n")
        fresh.replace(self.pin_file)

    def create_token(self, label: str) -> None:
        """Create another token."""
        self._run(
            self.program, "--module", self.module, "--init-token", "--free", "--label", label,
            "--pin", PIN, "--so-pin", SO_PIN,
        )  # fmt: skip

    def create_key(self, key: str, *, exported: bool = False, kind: str = "AES") -> None:
        """Create a key in the token."""
        self._run(sys.executable, "-c", _CREATE, self.module, "owner", PIN, key, "yes" if exported else "no", kind)

    def delete_key(self, key: str) -> None:
        """Delete a key."""
        self._run(sys.executable, "-c", _DELETE, self.module, "owner", PIN, key)

    def _run(self, *command: str | Path) -> None:
        environment = {**os.environ, "SOFTHSM2_CONF": str(self.folder / "softhsm2.conf")}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    """Create a token below ``folder``, and point the environment of this process to it."""
    pair = found()
    if pair is None:
        pytest.skip("SoftHSM is missing: `make softhsm` gets it (Debian, Ubuntu)")
    pytest.importorskip("pkcs11", reason="python-pkcs11 is missing: `make setup` installs it")
    (folder / "tokens").mkdir(parents=True)
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    made = SoftHsm(folder=folder, program=pair[0], module=pair[1])
    made.create_token("owner")
    made.create_key("sealserve")
    made.write_pin(PIN)
    return made
