"""The manifest of an enclave, as Gramine 1.9 reads it: one typed description for writing and for reading.

Reading accepts only what is known here, so that no setting weakens an enclave unnoticed: an unknown key, or a value
that sealserve would not write, is refused by name.

Source: Gramine 1.9, ``Documentation/manifest-syntax.rst`` and ``python/graminelibos/manifest_check.py`` (names and
types of all settings), ``tools/sgx/ra-tls/secret_prov.h`` (``SECRET_PROVISION_*``).
"""

import posixpath
import tomllib
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Final, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from sealserve.enclave.lint import Danger, lint, refuse, without
from sealserve.errors import VerificationError

SPEC_VERSION: Final = "Gramine 1.9, Documentation/manifest-syntax.rst"
KEY_NAME: Final = "release"
PROVISIONING_LIBRARY: Final = "libsecret_prov_attest.so"
_FILE: Final = "file:"
_SIZE_UNITS: Final = {"K": 2**10, "M": 2**20, "G": 2**30}
# What the provisioning library and we need; a manifest without one of them makes no working enclave.
_NEEDED_ENVIRONMENT: Final = (
    "LD_PRELOAD",
    "SEALSERVE_PLATFORM",
    "SEALSERVE_RELEASE_ID",
    "SECRET_PROVISION_CA_CHAIN_PATH",
    "SECRET_PROVISION_CONSTRUCTOR",
    "SECRET_PROVISION_SERVERS",
    "SECRET_PROVISION_SET_KEY",
)


class ManifestSyntaxError(VerificationError):
    """The manifest is no TOML text."""

    code = "manifest.syntax"


class ManifestMissingSettingError(VerificationError):
    """The manifest lacks a setting without which the enclave would be insecure or would not work."""

    code = "manifest.missing-setting"


class ManifestUnknownSettingError(VerificationError):
    """The manifest has a setting that sealserve does not know, or does not accept at all."""

    code = "manifest.unknown-setting"


class ManifestSettingError(VerificationError):
    """A setting of the manifest has a value that sealserve does not accept."""

    code = "manifest.invalid-setting"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Uri = Annotated[str, StringConstraints(pattern=r"^file:[^\x00]+$")]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_SixteenBits = Annotated[int, Field(ge=0, le=0xFFFF)]


class Libos(_Table):
    """``[libos]``: the program that is started."""

    entrypoint: str


class LoaderEntrypoint(_Table):
    """``[loader.entrypoint]``: Gramine's library OS, filled in by ``gramine-manifest``."""

    uri: _Uri
    sha256: _Sha256 | None = None


class Loader(_Table):
    """``[loader]``: argument vector and environment, fixed."""

    entrypoint: LoaderEntrypoint | None = None
    log_level: Literal["none", "error"] = "error"
    argv: Annotated[list[str], Field(min_length=1)]
    env: dict[str, str]


class Root(_Table):
    """``[fs.root]``: without it, the host's current directory would be the root."""

    type: Literal["tmpfs"] = "tmpfs"


class HostMount(_Table):
    """A file or folder of the host. Only its trusted files can be opened."""

    type: Literal["chroot"] = "chroot"
    path: str
    uri: _Uri


class TmpfsMount(_Table):
    """An empty folder in the enclave's memory."""

    type: Literal["tmpfs"] = "tmpfs"
    path: str


class EncryptedMount(_Table):
    """A sealed file or folder (the URI then ends in a slash), relative to the release's folder."""

    type: Literal["encrypted"] = "encrypted"
    path: str
    uri: _Uri
    key_name: str = KEY_NAME

    @property
    def source(self) -> str:
        """The path of the sealed file or folder in the release, normalised; it begins each embedded path."""
        return posixpath.normpath(self.uri.removeprefix(_FILE))

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.uri.endswith("/")


Mount = Annotated[HostMount | TmpfsMount | EncryptedMount, Field(discriminator="type")]


class FileSystem(_Table):
    """``[fs]``."""

    root: Root
    mounts: list[Mount]


class Stack(_Table):
    """``[sys.stack]``."""

    size: str


class System(_Table):
    """``[sys]``: SIGTERM reaches the server, and DNS is the only source of names."""

    enable_sigterm_injection: Literal[True]
    enable_extra_runtime_domain_names_conf: Literal[True]
    stack: Stack | None = None


class TrustedFile(_Table):
    """A file of the host whose digest is measured."""

    uri: _Uri
    sha256: _Sha256

    @property
    def path(self) -> str:
        """The path on the host: absolute, or relative to the release's folder."""
        return self.uri.removeprefix(_FILE)


class CpuFeatures(_Table):
    """``[sgx.cpu_features]``, filled in by ``gramine-manifest``."""

    avx: Literal["unspecified", "disabled", "required"] = "unspecified"
    avx512: Literal["unspecified", "disabled", "required"] = "unspecified"
    amx: Literal["unspecified", "disabled", "required"] = "unspecified"
    mpx: Literal["disabled", "required"] = "disabled"
    pkru: Literal["disabled", "required"] = "disabled"


class Sgx(_Table):
    """``[sgx]``."""

    debug: Literal[False]
    remote_attestation: Literal["dcap"]
    enclave_size: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[KMG]?$")]
    max_threads: Annotated[int, Field(ge=4, le=0xFFFF)]
    isvprodid: _SixteenBits
    isvsvn: _SixteenBits
    edmm_enable: bool = False
    enable_stats: Literal[False] = False
    use_exinfo: Literal[False] = False
    cpu_features: CpuFeatures | None = None
    trusted_files: list[TrustedFile]


class EnclaveManifest(_Table):
    """A whole ``.manifest.sgx``."""

    libos: Libos
    loader: Loader
    fs: FileSystem
    sys: System
    sgx: Sgx

    @property
    def enclave_size(self) -> int:
        """In bytes."""
        size = self.sgx.enclave_size
        return int(size[:-1]) * _SIZE_UNITS[size[-1]] if size[-1] in _SIZE_UNITS else int(size)

    @property
    def encrypted_mounts(self) -> list[EncryptedMount]:
        """The sealed files and folders, in order."""
        return [mount for mount in self.fs.mounts if isinstance(mount, EncryptedMount)]

    @property
    def private_folders(self) -> list[str]:
        """The paths of the tmpfs mounts."""
        return [mount.path for mount in self.fs.mounts if isinstance(mount, TmpfsMount)]

    @property
    def private_root(self) -> str:
        """The top-level folder below which all private files lie: ``/release``."""
        return "/" + self.encrypted_mounts[0].path.split("/")[1]

    def host_path(self, path: str) -> str | None:
        """Return the host's path of ``path`` inside, if a host mount has it."""
        for mount in self.fs.mounts:
            if isinstance(mount, HostMount):
                source = mount.uri.removeprefix(_FILE).rstrip("/")
                if path == mount.path:
                    return source
                if path.startswith(mount.path + "/"):
                    return source + path.removeprefix(mount.path)
        return None

    def to_bytes(self) -> bytes:
        """Return the manifest's text: equal manifests have equal bytes."""
        return tomli_w.dumps(self.model_dump(exclude_none=True)).encode()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        paths = [mount.path for mount in self.fs.mounts]
        for path in (*paths, self.libos.entrypoint):
            if not path.startswith("/") or path != posixpath.normpath(path) or path == "/":
                yield f"{path!r} should be an absolute, normalised path other than '/'"
        if len(set(paths)) < len(paths):
            yield "two entries of fs.mounts have the same path"
        if len({file.uri for file in self.sgx.trusted_files}) < len(self.sgx.trusted_files):
            yield "sgx.trusted_files names a file twice"
        if not self.encrypted_mounts:
            yield "fs.mounts should have an encrypted mount"
        else:
            yield from self._mount_problems()

    def _mount_problems(self) -> Iterator[str]:
        for mount in self.encrypted_mounts:
            if mount.source.startswith(("/", "..")) or mount.source == ".":
                yield f"the encrypted mount {mount.uri!r} should lie in the release's folder"
            if mount.key_name != self.loader.env.get("SECRET_PROVISION_SET_KEY", mount.key_name):
                yield f"the key {mount.key_name!r} of {mount.uri!r} is not the one that is provisioned"
        for path in (*(mount.path for mount in self.encrypted_mounts), *self.private_folders):
            if not path.startswith(self.private_root + "/"):
                yield f"{path!r} should lie below {self.private_root!r}, as the other private files"


def read_toml(raw: bytes, *, name: str) -> tuple[str, dict[str, Any]]:
    """Return the text of a manifest, and what it says.

    Raises:
        ManifestSyntaxError: No UTF-8 text, or no TOML.
    """
    try:
        text = raw.decode()
        return text, tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ManifestSyntaxError(f"{name} is not valid TOML: {error}.") from error


def parse_manifest(
    raw: bytes, *, name: str = "the manifest", dangerous: Collection[Danger] = (), one_way_tls: bool = False
) -> EnclaveManifest:
    """Read a ``.manifest.sgx``.

    Steps: (1) it is TOML; (2) nothing in it makes the enclave insecure; (3) it has only what is known here.

    Args:
        raw: The file's exact bytes.
        name: What to call it in errors.
        dangerous: The classes of insecure settings that are allowed; they are not in what is returned.
        one_way_tls: Whether the server lets in clients without a certificate.

    Raises:
        ManifestSyntaxError: No UTF-8 text, or no TOML.
        ManifestInsecureError: It has insecure settings; the message has the line, the setting and the reason of each.
        ManifestMissingSettingError: A needed setting is not there; the message names it.
        ManifestUnknownSettingError: A setting is there that is not accepted; the message names it.
        ManifestSettingError: A setting has a value that is not accepted; the message names both.
    """
    text, data = read_toml(raw, name=name)  # (1)
    findings = lint(text, data, one_way_tls=one_way_tls)
    refuse(findings, dangerous, name=name)  # (2)
    if findings:
        data = without(data, findings)
    try:
        manifest = EnclaveManifest.model_validate(data)  # (3)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part not in {"chroot", "tmpfs", "encrypted"})
        if first["type"] == "missing":
            raise ManifestMissingSettingError(f"{name} lacks the setting {where}.") from error
        if first["type"] == "extra_forbidden":
            raise ManifestUnknownSettingError(f"{name} has the setting {where}, which is not accepted.") from error
        message = first["msg"].removeprefix("Value error, ")
        got = f" (it is {first['input']!r})" if where else ""
        raise ManifestSettingError(f"{name}: {where or 'as a whole'}: {message}{got}.") from error
    for variable in _NEEDED_ENVIRONMENT:
        if variable not in manifest.loader.env:
            raise ManifestMissingSettingError(f"{name} lacks the setting loader.env.{variable}.")
    return manifest
