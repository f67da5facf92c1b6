"""The manifest of an enclave in the format of Gramine 1.9: one typed description for writing and for reading.

`manifest_reader` reads a manifest's text.

Source: Gramine 1.9, ``Documentation/manifest-syntax.rst`` and ``python/graminelibos/manifest_check.py`` (names and
types of all settings), ``tools/sgx/ra-tls/secret_prov.h`` (``SECRET_PROVISION_*``).
"""

import posixpath
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Final, Literal, Self

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from sealserve.enclave.environment import BROKER_CA_FILE, BROKER_CA_PATH, KEY_NAME
from sealserve.enclave.mount_places import is_plain
from sealserve.sealing.release_index import ENCLAVE_FOLDER
from sealserve.terms import CpuFeature

SPEC_VERSION: Final = "Gramine 1.9, Documentation/manifest-syntax.rst"
_FILE: Final = "file:"
_BROKER_CA: Final = f"{ENCLAVE_FOLDER}/{BROKER_CA_FILE}"  # in the release's folder
_SIZE_UNITS: Final = {"K": 2**10, "M": 2**20, "G": 2**30}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Uri = Annotated[str, StringConstraints(pattern=r"^file:[^\x00]+$")]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_SixteenBits = Annotated[int, Field(ge=0, le=0xFFFF)]


def _plain_text(value: Any) -> Any:
    """Return the text of a variable in Gramine's alternative form, ``{ value = "x" }``; else return it unchanged."""
    return value["value"] if isinstance(value, dict) and value.keys() == {"value"} else value


class Libos(_Table):
    """``[libos]``: the program that Gramine starts."""

    entrypoint: str


class LoaderEntrypoint(_Table):
    """``[loader.entrypoint]``: Gramine's library OS, filled in by ``gramine-manifest``."""

    uri: _Uri
    sha256: _Sha256 | None = None


class Loader(_Table):
    """``[loader]``: the fixed argument vector and environment."""

    entrypoint: LoaderEntrypoint | None = None
    log_level: Literal["none", "error"] = "error"
    argv: Annotated[list[str], Field(min_length=1)]
    env: dict[str, Annotated[str, BeforeValidator(_plain_text)]]


class Root(_Table):
    """``[fs.root]``: without it, the host's current directory would be the root."""

    type: Literal["tmpfs"] = "tmpfs"


class HostMount(_Table):
    """A file or folder of the host. The enclave can open only the trusted files in it."""

    type: Literal["chroot"] = "chroot"
    path: str
    uri: _Uri


class TmpfsMount(_Table):
    """An empty folder in the enclave's memory."""

    type: Literal["tmpfs"] = "tmpfs"
    path: str


class EncryptedMount(_Table):
    """A sealed file or folder, relative to the release's folder. The URI of a folder ends in a slash."""

    type: Literal["encrypted"] = "encrypted"
    path: str
    uri: _Uri
    key_name: str = KEY_NAME

    @property
    def source(self) -> str:
        """The normalized path of the sealed file or folder in the release. Each embedded path begins with it."""
        return posixpath.normpath(self.uri.removeprefix(_FILE))

    @property
    def is_folder(self) -> bool:
        """Whether the mount is a folder."""
        return self.uri.endswith("/")


Mount = Annotated[HostMount | TmpfsMount | EncryptedMount, Field(discriminator="type")]


class FileSystem(_Table):
    """``[fs]``: the root and the mounts."""

    root: Root
    mounts: list[Mount]


class Stack(_Table):
    """``[sys.stack]``: the size of each thread's stack."""

    size: str


class System(_Table):
    """``[sys]``: SIGTERM reaches the server, and host names are resolved only through DNS."""

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
    """``[sgx.cpu_features]``, filled in by ``gramine-manifest`` unless the enclave requires a feature.

    Gramine enables an unspecified feature if the processor has it.
    """

    avx: Literal["unspecified", "disabled", "required"] = "unspecified"
    avx512: Literal["unspecified", "disabled", "required"] = "unspecified"
    amx: Literal["unspecified", "disabled", "required"] = "unspecified"
    mpx: Literal["disabled", "required"] = "disabled"
    pkru: Literal["disabled", "required"] = "disabled"

    @classmethod
    def requiring(cls, features: Collection[CpuFeature]) -> Self | None:
        """Return the table for an enclave that requires ``features``, or None if it requires none."""
        return cls.model_validate(dict.fromkeys(map(str, features), "required")) if features else None

    @property
    def required(self) -> tuple[CpuFeature, ...]:
        """The features without which the enclave does not start."""
        return tuple(feature for feature in CpuFeature if getattr(self, feature) == "required")


class Sgx(_Table):
    """``[sgx]``: size, threads, versions and trusted files of the enclave."""

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

    @property
    def required_cpu_features(self) -> tuple[CpuFeature, ...]:
        """The features without which the enclave does not start."""
        return () if self.cpu_features is None else self.cpu_features.required


class EnclaveManifest(_Table):
    """A complete ``.manifest.sgx``."""

    libos: Libos
    loader: Loader
    fs: FileSystem
    sys: System
    sgx: Sgx

    @property
    def enclave_size(self) -> int:
        """``sgx.enclave_size`` in bytes."""
        size = self.sgx.enclave_size
        return int(size[:-1]) * _SIZE_UNITS[size[-1]] if size[-1] in _SIZE_UNITS else int(size)

    @property
    def encrypted_mounts(self) -> list[EncryptedMount]:
        """The sealed files and folders, in order."""
        return [mount for mount in self.fs.mounts if isinstance(mount, EncryptedMount)]

    @property
    def private_folders(self) -> list[str]:
        """The paths of the tmpfs mounts, which are folders in the enclave's memory."""
        return [mount.path for mount in self.fs.mounts if isinstance(mount, TmpfsMount)]

    @property
    def private_root(self) -> str:
        """The top-level folder that contains all private files: ``/release``."""
        return "/" + self.encrypted_mounts[0].path.split("/")[1]

    def host_path(self, path: str) -> str | None:
        """Return the host's path of ``path`` inside, or None. As in Gramine, the mount with the longest path counts."""
        fitting = [mount for mount in self.fs.mounts if f"{path}/".startswith(f"{mount.path}/")]
        mount = max(fitting, key=lambda mount: len(mount.path), default=None)
        if not isinstance(mount, HostMount):
            return None
        return mount.uri.removeprefix(_FILE).rstrip("/") + path.removeprefix(mount.path)

    def to_bytes(self) -> bytes:
        """Return the manifest's text. Equal manifests have equal bytes."""
        return tomli_w.dumps(self.model_dump(exclude_none=True)).encode()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        paths = [mount.path for mount in self.fs.mounts]
        for path in (*paths, self.libos.entrypoint):
            if not is_plain(path) or path == "/":
                yield f"{path!r} must be an absolute, normalized path other than '/'"
        if len(set(paths)) < len(paths):
            yield "two entries of fs.mounts have the same path"
        if len({file.uri for file in self.sgx.trusted_files}) < len(self.sgx.trusted_files):
            yield "sgx.trusted_files lists a file twice"
        if not self.encrypted_mounts:
            yield "fs.mounts must have an encrypted mount"
        else:
            yield from self._mount_problems()
        trusted = {file.path for file in self.sgx.trusted_files}
        if self.host_path(self.libos.entrypoint) not in trusted:
            yield f"libos.entrypoint {self.libos.entrypoint!r} must be one of sgx.trusted_files"
        if self.host_path(BROKER_CA_PATH) != _BROKER_CA or _BROKER_CA not in trusted:
            yield f"{BROKER_CA_PATH} must be a mount of the trusted file 'file:{_BROKER_CA}'"

    def _mount_problems(self) -> Iterator[str]:
        for mount in self.encrypted_mounts:
            if mount.source.startswith(("/", "..")) or mount.source == ".":
                yield f"the encrypted mount {mount.uri!r} must be in the release's folder"
            if mount.key_name != self.loader.env.get("SECRET_PROVISION_SET_KEY", mount.key_name):
                yield f"the key {mount.key_name!r} of {mount.uri!r} is not SECRET_PROVISION_SET_KEY's key"
        private = [*(mount.path for mount in self.encrypted_mounts), *self.private_folders]
        for path in private:
            if not path.startswith(self.private_root + "/"):
                yield f"{path!r} must be below {self.private_root!r}, like the other private files"
        for other in self.fs.mounts:
            if isinstance(other, HostMount) and f"{other.path}/".startswith(f"{self.private_root}/"):
                yield f"{other.path!r} must not be in {self.private_root!r}: it would hide private files"
            for path in private:
                if other.path.startswith(f"{path}/"):
                    yield f"{other.path!r} must not be in {path!r}: it would hide a part of it"
