"""Gramine's build tools: ``gramine-manifest`` checks and renders, ``gramine-sgx-sign`` measures and signs.

The tools run on the owner's machine. They get the owner's key through a file in memory (memfd), never through a file on
disk. Their output is compared with their input: the manifest has the same settings, and the SIGSTRUCT verifies under
the owner's key.

Source: Gramine 1.9, ``python/gramine-manifest``, ``python/gramine-sgx-sign``, ``python/graminelibos/sgx_sign.py``
(options, defaults that are filled in, which libpal.so is measured), ``Documentation/manpages``.
"""

import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.findings import Danger
from sealserve.enclave.inventory import GramineFiles
from sealserve.enclave.manifest import CpuFeatures, EnclaveManifest
from sealserve.enclave.manifest_reader import parse_manifest
from sealserve.sgx.sigstruct import Sigstruct

LOGGER: Final = logging.getLogger(__name__)
INSTALLATION: Final = "https://gramine.readthedocs.io/en/stable/installation.html"
_TIMEOUT: Final = 900  # seconds: every page of a large enclave is measured
_LIBPAL_BESIDE: Final = ("lib/x86_64-linux-gnu", "lib64", "lib")


@dataclass(frozen=True, slots=True, kw_only=True)
class GramineTools:
    """Gramine's build tools on this machine.

    Args:
        manifest: The path of ``gramine-manifest``.
        sign: The path of ``gramine-sgx-sign``.
        libpal: The ``libpal.so`` for SGX that is measured.
    """

    manifest: str
    sign: str
    libpal: Path

    def check_version(self, there: GramineFiles) -> None:
        """Check that this machine's ``libpal.so`` equals the one that the enclave loads on the other machine.

        Raises:
            VerificationError: `gramine.other-version`: The two ``libpal.so`` files differ.
        """
        here = hashlib.sha256(self.libpal.read_bytes()).hexdigest()
        if here != there.libpal.sha256:
            raise EnclaveCode.GRAMINE_OTHER_VERSION.error(
                f"This machine's Gramine differs from the inventory's, so the measurement would differ: {self.libpal} "
                f"has SHA-256 {here}, and {there.libpal.path} in the inventory has {there.libpal.sha256}.",
                hint="Install the inventory's version of Gramine here, or pass its libpal.so with --libpal.",
            )

    def build(
        self,
        manifest: bytes,
        *,
        name: str,
        signing_key: RSAPrivateKey,
        signed_on: date,
        dangerous: Collection[Danger] = (),
    ) -> tuple[bytes, Sigstruct]:
        """Build the ``.manifest.sgx`` and the SIGSTRUCT of a manifest.

        Args:
            manifest: The manifest's text, with the digest of every trusted file.
            name: The enclave's name.
            signing_key: The key that signs the SIGSTRUCT.
            signed_on: The date in the SIGSTRUCT.
            dangerous: The classes of insecure settings that are allowed in the manifest.

        Raises:
            UnavailableError: `gramine.tool-failed`: A tool failed.
            VerificationError: `gramine.other-output`: The output differs from the requested enclave.
        """
        with TemporaryDirectory(prefix="sealserve-gramine-") as folder, _in_memory(signing_key) as key:
            place = Path(folder)
            template, rendered = place / f"{name}.manifest.template", place / f"{name}.manifest"
            built, sigstruct_file = place / f"{name}.manifest.sgx", place / f"{name}.sig"
            template.write_bytes(_verbatim(manifest, name))
            _run([self.manifest, "--check", str(template), str(rendered)], place)
            sign = [self.sign, "--manifest", str(rendered), "--output", str(built), "--sigfile", str(sigstruct_file)]
            sign += ["--libpal", str(self.libpal), "--date", signed_on.isoformat(), "--quiet"]
            _run([*sign, "--key", f"/proc/self/fd/{key}"], place, key)
            output = built.read_bytes()
            sigstruct = Sigstruct.parse(sigstruct_file.read_bytes())
        asked = parse_manifest(manifest, dangerous=dangerous)
        _check_output(asked, parse_manifest(output, name=built.name, dangerous=dangerous), name)
        sigstruct.verify()
        debugging = sigstruct.attributes.debug and Danger.DEBUG not in dangerous
        if sigstruct.modulus != signing_key.public_key().public_numbers().n or debugging:
            raise EnclaveCode.GRAMINE_OTHER_OUTPUT.error(
                f"gramine-sgx-sign signed the enclave {name!r} with an unexpected key, or enabled debugging.",
                hint="Check that `gramine-sgx-sign` is the tool of Gramine 1.9 or later.",
            )
        return output, sigstruct


def find_tools(*, libpal: Path | None = None) -> GramineTools:
    """Find Gramine's build tools on the search path.

    Args:
        libpal: The ``libpal.so`` to measure. By default the one in the tools' installation.

    Raises:
        UnavailableError: `gramine.missing`: A tool or ``libpal.so`` is not installed.
    """
    found = {name: shutil.which(name) for name in ("gramine-manifest", "gramine-sgx-sign")}
    manifest, sign = found.values()
    if manifest is None or sign is None:
        missing = ", ".join(name for name, path in found.items() if path is None)
        raise EnclaveCode.GRAMINE_MISSING.error(
            f"Gramine's build tools are not installed on this machine, or not on the search path (PATH): {missing}.",
            hint=f"Install Gramine 1.9 or later ({INSTALLATION}), or build simulated enclaves.",
        )
    own = libpal or _libpal_beside(Path(sign))
    if own is None or not own.is_file():
        raise EnclaveCode.GRAMINE_MISSING.error(
            f"Gramine's installation for SGX is incomplete: {own or 'gramine/sgx/libpal.so beside ' + sign} is "
            "missing.",
            hint="Pass the path of libpal.so with --libpal.",
        )
    return GramineTools(manifest=manifest, sign=sign, libpal=own)


def _libpal_beside(program: Path) -> Path | None:
    prefix = program.resolve().parent.parent
    places = (prefix / folder / "gramine/sgx/libpal.so" for folder in _LIBPAL_BESIDE)
    return next((place for place in places if place.is_file()), None)


def _verbatim(manifest: bytes, name: str) -> bytes:
    """Return the manifest as a Jinja template that renders to the same bytes, since a file name may contain marks."""
    if b"{%" in manifest and b"endraw" in manifest:
        raise EnclaveCode.GRAMINE_OTHER_OUTPUT.error(
            f"The manifest of {name!r} cannot be passed to gramine-manifest: a file name contains both `{{%` and "
            "`endraw`, which a Jinja template cannot express.",
            hint="Rename the file.",
        )
    return b"{% raw %}" + manifest + b"{% endraw %}\n"


@contextmanager
def _in_memory(key: RSAPrivateKey) -> Iterator[int]:
    """Yield a descriptor of a file in memory that contains the key in PEM form. The file does not exist on disk."""
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    descriptor = os.memfd_create("enclave-signing-key")
    try:
        os.write(descriptor, pem)
        yield descriptor
    finally:
        os.close(descriptor)


def _run(arguments: Sequence[str], folder: Path, *descriptors: int) -> None:
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment |= {"HOME": str(folder), "LANG": "C.UTF-8"}
    LOGGER.info("running %s", Path(arguments[0]).name)
    try:
        subprocess.run(
            arguments,
            cwd=folder,
            env=environment,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_TIMEOUT,
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or b"").decode(errors="replace").strip().splitlines()
        raise EnclaveCode.GRAMINE_TOOL_FAILED.error(
            f"{arguments[0]} ended with status {error.returncode}: {' / '.join(said[-3:]) or 'no output'}.",
            hint="Check that Gramine 1.9 or later is installed, with its Python packages.",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnclaveCode.GRAMINE_TOOL_FAILED.error(f"{arguments[0]} failed: {error}.") from error


def _check_output(asked: EnclaveManifest, made: EnclaveManifest, name: str) -> None:
    """Compare the requested manifest with the tools' output. The tools may only add defaults."""
    filled = made.sgx.model_copy(update={"cpu_features": asked.sgx.cpu_features})
    defaults = {None, CpuFeatures()} if asked.sgx.cpu_features is None else {asked.sgx.cpu_features}
    if made.model_copy(update={"sgx": filled}) != asked or made.sgx.cpu_features not in defaults:
        raise EnclaveCode.GRAMINE_OTHER_OUTPUT.error(
            f"gramine-sgx-sign changed settings in the manifest of {name!r}, so the output is not used.",
            hint="Check that `gramine-sgx-sign` is the tool of Gramine 1.9 or later.",
        )
