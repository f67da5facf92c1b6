"""What an enclave is made of, and the manifest that says so.

For the simulated platform the trusted files are the interpreter, its ``pyvenv.cfg``, every module of sealserve and the
broker's CA certificate. The standard library and third-party packages are *not* measured there: the simulation shows
the flow, and what it measures is enough to notice another sealserve. Cached bytecode is not measured and not used.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import sealserve
from sealserve.deployment import Platform
from sealserve.enclave.inventory import MeasuredFile
from sealserve.enclave.manifest import (
    KEY_NAME,
    PROVISIONING_LIBRARY,
    EnclaveManifest,
    EncryptedMount,
    FileSystem,
    HostMount,
    Libos,
    Loader,
    Mount,
    Root,
    Sgx,
    Stack,
    System,
    TmpfsMount,
    TrustedFile,
)
from sealserve.errors import InputError
from sealserve.sealing.release_index import ENCLAVE_FOLDER

PRIVATE_ROOT: Final = "/release"
BROKER_CA_FILE: Final = "broker-ca.pem"
BROKER_CA_PATH: Final = f"/{BROKER_CA_FILE}"
DEFAULT_ENCLAVE_SIZE: Final = 4 * 2**30

_MEBIBYTE: Final = 2**20
_SCRATCH: Final = f"{PRIVATE_ROOT}/scratch"
# Gramine 1.9, manifest-syntax.rst, "Number of threads": main, IPC, async and one TLS-handshake thread.
_GRAMINE_THREADS: Final = 4
# gRPC's and Python's own threads: gRPC takes as many as the host shows processors, which the host chooses.
_SERVER_THREADS: Final = 64
_STACK: Final = "2M"  # Gramine's default of 256K is too small for Python (its own Python example takes 2M)


class EnclaveSpecError(InputError):
    """What an enclave should be made of does not fit together."""

    code = "enclave.invalid-spec"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveSpec:
    """What an enclave is made of.

    Args:
        name: Names its files: ``NAME.manifest.sgx``, ``NAME.sig``.
        release_id: Of the release that it opens, 64 hexadecimal digits. It is measured.
        argv: The server's whole command line, measured; the first is the absolute path of the program.
        broker: Host and port of the broker, measured.
        mounts: The sealed files and folders, and where they appear below ``/release``.
        trusted_files: Files of the host whose digests are measured. `make_manifest` adds the broker's CA.
        threads: TensorFlow's threads; ``sgx.max_threads`` follows from it.
        enclave_size: In bytes, a power of two of at least one MiB.
        isv_prod_id: The product id, 16 bits.
        isv_svn: The security version, 16 bits.
        simulated: Whether it is for the simulated platform.
    """

    name: str
    release_id: str
    argv: tuple[str, ...]
    broker: tuple[str, int]
    mounts: tuple[EncryptedMount, ...]
    trusted_files: tuple[MeasuredFile, ...] = ()
    threads: int = 1
    enclave_size: int = DEFAULT_ENCLAVE_SIZE
    isv_prod_id: int = 0
    isv_svn: int = 0
    simulated: bool

    def __post_init__(self) -> None:
        host, port = self.broker
        problems = (
            (not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", self.name), f"the name {self.name!r}"),
            (not re.fullmatch(r"[0-9a-f]{64}", self.release_id), f"the release id {self.release_id!r}"),
            (not self.argv or not self.argv[0].startswith("/"), "the program (argv[0]), which should be absolute"),
            (not self.mounts, "the mounts: there should be one at least"),
            (not re.fullmatch(r"[A-Za-z0-9.-]+", host) or not 0 < port < 2**16, f"the broker {host!r}:{port}"),
            (self.threads < 1, f"the threads ({self.threads})"),
            (
                self.enclave_size < _MEBIBYTE or self.enclave_size & (self.enclave_size - 1) != 0,
                f"the enclave size ({self.enclave_size} bytes): it should be a power of two of at least 1 MiB",
            ),
            (not 0 <= self.isv_prod_id < 2**16, f"the product id ({self.isv_prod_id})"),
            (not 0 <= self.isv_svn < 2**16, f"the security version ({self.isv_svn})"),
        )
        for wrong, what in problems:
            if wrong:
                raise EnclaveSpecError(f"The enclave {self.name!r} cannot be made: not usable is {what}.")

    @property
    def max_threads(self) -> int:
        """``sgx.max_threads``: two TensorFlow pools, the server's threads, Gramine's own."""
        return 2 * self.threads + _SERVER_THREADS + _GRAMINE_THREADS


def model_server(flags: Iterable[str], *, interpreter: Path | None = None) -> tuple[str, ...]:
    """Return the command line of ``sealserve-model-server`` under Python, isolated from the user's environment.

    Bytecode is looked for in a private folder that does not exist, and written nowhere (-B): a ``__pycache__`` beside
    the modules, whose files Python would run if they but name a module's size and time, has no say.

    Source: Python documentation, "Command line and environment", -I, -B and -X pycache_prefix.
    """
    isolation = ("-I", "-B", "-X", f"pycache_prefix={_SCRATCH}/no-bytecode")
    return (str(interpreter or sys.executable), *isolation, "-m", "sealserve.serving", *flags)


def model_server_files(*, interpreter: Path | None = None) -> tuple[Path, ...]:
    """Return what is measured of it: the interpreter, its ``pyvenv.cfg`` and every module of sealserve, in order."""
    program = Path(interpreter or sys.executable)
    settings = program.parent.parent / "pyvenv.cfg"
    modules = sorted(path for folder in sealserve.__path__ for path in Path(folder).rglob("*.py"))
    return (program, *([settings] if settings.is_file() else []), *modules)


def release_mounts(release: Path) -> tuple[EncryptedMount, ...]:
    """Return the mounts for what the release in ``release`` has: its folders and its file list, below ``/release``."""
    mounts = [
        EncryptedMount(path=f"{PRIVATE_ROOT}/{folder}", uri=f"file:{folder}/")
        for folder in ("config", "models", "tls")
        if (release / folder).is_dir()
    ]
    return (EncryptedMount(path=f"{PRIVATE_ROOT}/files.json", uri="file:files.json"), *mounts)


def make_manifest(spec: EnclaveSpec, *, broker_ca_sha256: str) -> EnclaveManifest:
    """Return the manifest of ``spec``.

    Args:
        spec: What the enclave is made of.
        broker_ca_sha256: The digest of ``enclave/broker-ca.pem`` in the release's folder.
    """
    trusted = {file.path: file.sha256 for file in spec.trusted_files}
    ca_uri = f"file:{ENCLAVE_FOLDER}/{BROKER_CA_FILE}"
    mounts: list[Mount] = [HostMount(path=BROKER_CA_PATH, uri=ca_uri)]
    mounts += [HostMount(path=path, uri=f"file:{path}") for path in _topmost(trusted)]
    mounts += [*spec.mounts, TmpfsMount(path=_SCRATCH)]
    return EnclaveManifest(
        libos=Libos(entrypoint=spec.argv[0]),
        loader=Loader(argv=list(spec.argv), env=_environment(spec)),
        fs=FileSystem(root=Root(), mounts=mounts),
        sys=System(
            enable_sigterm_injection=True,
            enable_extra_runtime_domain_names_conf=True,
            stack=Stack(size=_STACK),
        ),
        sgx=Sgx(
            debug=False,
            remote_attestation="dcap",
            enclave_size=f"{spec.enclave_size // _MEBIBYTE}M",
            max_threads=spec.max_threads,
            isvprodid=spec.isv_prod_id,
            isvsvn=spec.isv_svn,
            trusted_files=[
                TrustedFile(uri=ca_uri, sha256=broker_ca_sha256),
                *(TrustedFile(uri=f"file:{path}", sha256=trusted[path]) for path in sorted(trusted)),
            ],
        ),
    )


def _environment(spec: EnclaveSpec) -> dict[str, str]:
    host, port = spec.broker
    return {
        "HOME": _SCRATCH,
        "LANG": "C.UTF-8",
        "LD_PRELOAD": PROVISIONING_LIBRARY,
        "OMP_NUM_THREADS": str(spec.threads),
        "SEALSERVE_PLATFORM": str(Platform.SIMULATED if spec.simulated else Platform.SGX),
        "SEALSERVE_RELEASE_ID": spec.release_id,
        "SECRET_PROVISION_CA_CHAIN_PATH": BROKER_CA_PATH,
        "SECRET_PROVISION_CONSTRUCTOR": "1",
        "SECRET_PROVISION_SERVERS": f"{host}:{port}",
        "SECRET_PROVISION_SET_KEY": KEY_NAME,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_NUM_INTEROP_THREADS": str(spec.threads),
        "TF_NUM_INTRAOP_THREADS": str(spec.threads),
        "TMPDIR": _SCRATCH,
    }


def _topmost(files: Iterable[str]) -> list[str]:
    """Return the fewest folders (or files in the root) that hold all of ``files``."""
    paths = [PurePosixPath(path) for path in files]
    places = {path.parent if path.parent != PurePosixPath("/") else path for path in paths}
    return sorted(str(place) for place in places if not places.intersection(place.parents))
