"""The specification of an enclave, and the manifest that follows from it, for both servers and both platforms.

By default, the trusted files of a simulated enclave are the interpreter, its ``pyvenv.cfg``, every module of sealserve
and the broker's CA certificate. The standard library and third-party packages are *not* measured then. The simulation
shows the procedure, and this set is enough to detect a changed sealserve. Cached bytecode is neither measured nor used.
With an inventory, every file that the server may open is measured, as on SGX.

Source: Gramine 1.9, ``Documentation/manifest-syntax.rst``, ``CI-Examples/python/python.manifest.template`` (the C
library in ``/lib``, LD_LIBRARY_PATH), ``CI-Examples/ra-tls-secret-prov`` (provisioning of a key).
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import sealserve
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.environment import (
    BROKER_CA_FILE,
    BROKER_CA_PATH,
    DEVICE_VARIABLE,
    GRAMINE_DEVICE,
    KEY_NAME,
    PROVISIONING_LIBRARY,
    SIMULATED_DEVICE,
)
from sealserve.enclave.inventory import GramineFiles, MeasuredFile
from sealserve.enclave.manifest import (
    CpuFeatures,
    EnclaveManifest,
    EncryptedMount,
    FileSystem,
    HostMount,
    Libos,
    Loader,
    LoaderEntrypoint,
    Mount,
    Root,
    Sgx,
    Stack,
    System,
    TmpfsMount,
    TrustedFile,
)
from sealserve.enclave.server_command import GRAMINE_THREADS, PRIVATE_ROOT, SCRATCH
from sealserve.enclave.server_files import LIBRARY_FOLDER, RUNTIME_FOLDER
from sealserve.enclave.sizing import ARENAS, MEBIBYTE, STACK
from sealserve.sealing.release_index import ENCLAVE_FOLDER
from sealserve.terms import CpuFeature, PlatformKind

DEFAULT_ENCLAVE_SIZE: Final = 4 * 2**30
DEFAULT_MAX_THREADS: Final = 80

_RUNTIME_PLACE: Final = "/lib"  # the folder inside the enclave of Gramine's C library, as in Gramine's examples


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveSpec:
    """The specification of an enclave.

    Args:
        name: The base name of its files: ``NAME.manifest.sgx``, ``NAME.sig``.
        release_id: The id of the release that it opens, 64 hexadecimal digits. It is measured.
        argv: The server's complete command line. It is measured, and begins with the program's absolute path.
        broker: The broker's host and port, which are measured.
        mounts: The sealed files and folders, and their mount points below ``/release``.
        trusted_files: Files of the host whose digests are measured. `make_manifest` adds the broker's CA.
        gramine: Gramine's files where the enclave runs. Without them, only the simulated platform's own loader can run
            the enclave.
        threads: The number of TensorFlow's threads in each of its pools.
        max_threads: The maximum number of all threads.
        enclave_size: The size in bytes, a power of two of at least one MiB.
        edmm: Whether memory is added when it is used (requires a processor with SGX2, and Linux 6.0).
        required_cpu_features: Features of the processor without which the enclave does not start.
        isv_prod_id: The product id, 16 bits.
        isv_svn: The security version, 16 bits.
        simulated: Whether the enclave is for the simulated platform.
        attests: Whether the program attests itself (`sealserve.attester`), without Gramine's provisioning library.
    """

    name: str
    release_id: str
    argv: tuple[str, ...]
    broker: tuple[str, int]
    mounts: tuple[EncryptedMount, ...]
    trusted_files: tuple[MeasuredFile, ...] = ()
    gramine: GramineFiles | None = None
    threads: int = 1
    max_threads: int = DEFAULT_MAX_THREADS
    enclave_size: int = DEFAULT_ENCLAVE_SIZE
    edmm: bool = False
    required_cpu_features: tuple[CpuFeature, ...] = ()
    isv_prod_id: int = 0
    isv_svn: int = 0
    simulated: bool
    attests: bool = False

    def __post_init__(self) -> None:
        host, port = self.broker
        problems = (
            (
                not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", self.name),
                "the name must have 1 to 63 of a-z, 0-9, '.', '_' and '-', and start and end with a letter or digit",
            ),
            (
                not re.fullmatch(r"[0-9a-f]{64}", self.release_id),
                f"the release id must be 64 hexadecimal digits, got {self.release_id!r}",
            ),
            (
                not self.argv or not self.argv[0].startswith("/"),
                f"the program (argv[0]) must be an absolute path, got {(*self.argv, '')[0]!r}",
            ),
            (not self.mounts, "at least one mount is required, got none"),
            (
                not re.fullmatch(r"[A-Za-z0-9.-]+", host) or not 0 < port < 2**16,
                f"the broker must be a host name and a port from 1 to 65535, got {host!r}:{port}",
            ),
            (self.threads < 1, f"the number of threads must be at least 1, got {self.threads}"),
            (
                not GRAMINE_THREADS <= self.max_threads < 2**16,
                f"the number of all threads must be from {GRAMINE_THREADS} to 65535, got {self.max_threads}",
            ),
            (
                self.enclave_size < MEBIBYTE or self.enclave_size & (self.enclave_size - 1) != 0,
                f"the enclave size must be a power of two of at least 1 MiB, got {self.enclave_size} bytes",
            ),
            (not 0 <= self.isv_prod_id < 2**16, f"the product id must be from 0 to 65535, got {self.isv_prod_id}"),
            (not 0 <= self.isv_svn < 2**16, f"the security version must be from 0 to 65535, got {self.isv_svn}"),
        )
        for wrong, reason in problems:
            if wrong:
                raise EnclaveCode.INVALID_SPEC.error(f"The enclave {self.name!r} cannot be specified: {reason}.")
        if self.gramine is None and not self.simulated:
            raise EnclaveCode.INVALID_SPEC.error(
                f"The enclave {self.name!r} cannot be built for SGX: the inventory does not contain Gramine.",
                hint="Install Gramine where the server runs, and create the inventory again with `sealserve enclave "
                "inventory`, which prints whether it finds Gramine.",
            )


def model_server_files(*, interpreter: Path | None = None) -> tuple[Path, ...]:
    """Return the files of the embedded server that are measured: interpreter, ``pyvenv.cfg``, sealserve's own files.

    These are its modules and its tables. The table of TensorFlow's operations decides which models an attested server
    accepts.
    """
    program = Path(interpreter or sys.executable)
    settings = program.parent.parent / "pyvenv.cfg"
    folders = [Path(folder) for folder in sealserve.__path__]
    own = sorted(path for folder in folders for kind in ("*.py", "*.toml") for path in folder.rglob(kind))
    return (program, *([settings] if settings.is_file() else []), *own)


def release_mounts(release: Path) -> tuple[EncryptedMount, ...]:
    """Return mounts below ``/release`` for the file list and for the folders that the release contains."""
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
    mounts += _host_mounts(spec)
    mounts += [*spec.mounts, TmpfsMount(path=SCRATCH)]
    return EnclaveManifest(
        libos=Libos(entrypoint=spec.argv[0]),
        loader=Loader(entrypoint=_entrypoint(spec), argv=list(spec.argv), env=_environment(spec)),
        fs=FileSystem(root=Root(), mounts=mounts),
        sys=System(
            enable_sigterm_injection=True,
            enable_extra_runtime_domain_names_conf=True,
            stack=Stack(size=f"{STACK // MEBIBYTE}M"),
        ),
        sgx=Sgx(
            debug=False,
            remote_attestation="dcap",
            edmm_enable=spec.edmm,
            enclave_size=f"{spec.enclave_size // MEBIBYTE}M",
            max_threads=spec.max_threads,
            isvprodid=spec.isv_prod_id,
            isvsvn=spec.isv_svn,
            cpu_features=CpuFeatures.requiring(spec.required_cpu_features),
            trusted_files=[
                TrustedFile(uri=ca_uri, sha256=broker_ca_sha256),
                *(TrustedFile(uri=f"file:{path}", sha256=trusted[path]) for path in sorted(trusted)),
            ],
        ),
    )


def _entrypoint(spec: EnclaveSpec) -> LoaderEntrypoint | None:
    """Return the library OS with its measured digest, or None if Gramine's files are not known."""
    if spec.gramine is None:
        return None
    return LoaderEntrypoint(uri=f"file:{spec.gramine.libos.path}", sha256=spec.gramine.libos.sha256)


def _library_folders(spec: EnclaveSpec) -> tuple[str, ...]:
    """Return the folders that the dynamic loader searches, in order.

    The loader searches LD_LIBRARY_PATH before a program's RUNPATH. So the folder of a separate libpython must come
    before the system's folder. Otherwise Python would load the system's libpython.
    """
    paths = [PurePosixPath(file.path) for file in spec.trusted_files]
    own = {str(path.parent) for path in paths if path.name.startswith("libpython")} - {LIBRARY_FOLDER}
    systems = {str(path.parent) for path in paths} & {LIBRARY_FOLDER}
    return (_RUNTIME_PLACE, *sorted(own), *systems)


def _host_mounts(spec: EnclaveSpec) -> Iterator[HostMount]:
    """Yield the mounts of the trusted files: Gramine's C library in ``/lib``, all others at their path on the host."""
    paths = [file.path for file in spec.trusted_files]
    if spec.gramine is not None:
        runtime = f"{spec.gramine.folder}/{RUNTIME_FOLDER}"
        yield HostMount(path=_RUNTIME_PLACE, uri=f"file:{runtime}")
        paths = [path for path in paths if not path.startswith(f"{runtime}/")]
    for path in _topmost(paths):
        yield HostMount(path=path, uri=f"file:{path}")


def _environment(spec: EnclaveSpec) -> dict[str, str]:
    host, port = spec.broker
    search = {"LD_LIBRARY_PATH": ":".join(_library_folders(spec))} if spec.gramine is not None else {}
    return (
        search
        | _provisioning(spec)
        | {
            "HOME": SCRATCH,
            "LANG": "C.UTF-8",
            "MALLOC_ARENA_MAX": str(ARENAS),
            "OMP_NUM_THREADS": str(spec.threads),
            "SEALSERVE_PLATFORM": str(PlatformKind.SIMULATED if spec.simulated else PlatformKind.SGX),
            "SEALSERVE_RELEASE_ID": spec.release_id,
            "SECRET_PROVISION_CA_CHAIN_PATH": BROKER_CA_PATH,
            "SECRET_PROVISION_SERVERS": f"{host}:{port}",
            "SECRET_PROVISION_SET_KEY": KEY_NAME,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_NUM_INTEROP_THREADS": str(spec.threads),
            "TF_NUM_INTRAOP_THREADS": str(spec.threads),
            "TMPDIR": SCRATCH,
        }
    )


def _provisioning(spec: EnclaveSpec) -> dict[str, str]:
    """Return the variables of the part that gets the key: the program itself, or Gramine's provisioning library."""
    if spec.attests:
        return {DEVICE_VARIABLE: SIMULATED_DEVICE if spec.simulated else GRAMINE_DEVICE}
    return {"LD_PRELOAD": PROVISIONING_LIBRARY, "SECRET_PROVISION_CONSTRUCTOR": "1"}


def _topmost(files: Iterable[str]) -> list[str]:
    """Return the smallest set of folders (or files in the root) that contains all of ``files``."""
    paths = [PurePosixPath(path) for path in files]
    places = {path.parent if path.parent != PurePosixPath("/") else path for path in paths}
    return sorted(str(place) for place in places if not places.intersection(place.parents))
