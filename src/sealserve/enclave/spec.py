"""What an enclave is made of, and the manifest that says so: one template for both servers and both platforms.

For the simulated platform the trusted files are by default the interpreter, its ``pyvenv.cfg``, every module of
sealserve and the broker's CA certificate. The standard library and third-party packages are then *not* measured: the
simulation shows the flow, and what it measures is enough to notice another sealserve. Cached bytecode is not measured
and not used. With an inventory, everything that the server may open is measured, as it is for SGX.

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
from sealserve.enclave.environment import BROKER_CA_FILE, BROKER_CA_PATH, KEY_NAME, PROVISIONING_LIBRARY
from sealserve.enclave.inventory import GramineFiles, MeasuredFile
from sealserve.enclave.manifest import (
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
from sealserve.terms import PlatformKind

DEFAULT_ENCLAVE_SIZE: Final = 4 * 2**30
DEFAULT_MAX_THREADS: Final = 80

_RUNTIME_PLACE: Final = "/lib"  # where Gramine's examples have its C library inside


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
        gramine: Gramine where it runs. Without it, it is for the simulated platform's own loader only.
        threads: TensorFlow's threads in each of its pools.
        max_threads: How many threads there may be in all.
        enclave_size: In bytes, a power of two of at least one MiB.
        edmm: Whether memory is added when it is used (a processor with SGX2, Linux 6.0).
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
    gramine: GramineFiles | None = None
    threads: int = 1
    max_threads: int = DEFAULT_MAX_THREADS
    enclave_size: int = DEFAULT_ENCLAVE_SIZE
    edmm: bool = False
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
            (not GRAMINE_THREADS <= self.max_threads < 2**16, f"the number of all threads ({self.max_threads})"),
            (
                self.enclave_size < MEBIBYTE or self.enclave_size & (self.enclave_size - 1) != 0,
                f"the enclave size ({self.enclave_size} bytes): it should be a power of two of at least 1 MiB",
            ),
            (not 0 <= self.isv_prod_id < 2**16, f"the product id ({self.isv_prod_id})"),
            (not 0 <= self.isv_svn < 2**16, f"the security version ({self.isv_svn})"),
        )
        for wrong, what in problems:
            if wrong:
                raise EnclaveCode.INVALID_SPEC.error(f"The enclave {self.name!r} cannot be made: not usable is {what}.")
        if self.gramine is None and not self.simulated:
            raise EnclaveCode.INVALID_SPEC.error(
                f"The enclave {self.name!r} is for SGX, and there is no Gramine among what was measured.",
                hint="Install Gramine there, and measure again: `sealserve enclave inventory` says if it is found.",
            )


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
            trusted_files=[
                TrustedFile(uri=ca_uri, sha256=broker_ca_sha256),
                *(TrustedFile(uri=f"file:{path}", sha256=trusted[path]) for path in sorted(trusted)),
            ],
        ),
    )


def _entrypoint(spec: EnclaveSpec) -> LoaderEntrypoint | None:
    """Return the library OS, with the digest that it had where it was measured."""
    if spec.gramine is None:
        return None
    return LoaderEntrypoint(uri=f"file:{spec.gramine.libos.path}", sha256=spec.gramine.libos.sha256)


def _library_folders(spec: EnclaveSpec) -> tuple[str, ...]:
    """Return where the dynamic loader looks, in order: it asks LD_LIBRARY_PATH before a program's own RUNPATH.

    So a Python with its libpython in a folder of its own must find that one, and not the system's.
    """
    paths = [PurePosixPath(file.path) for file in spec.trusted_files]
    own = {str(path.parent) for path in paths if path.name.startswith("libpython")} - {LIBRARY_FOLDER}
    systems = {str(path.parent) for path in paths} & {LIBRARY_FOLDER}
    return (_RUNTIME_PLACE, *sorted(own), *systems)


def _host_mounts(spec: EnclaveSpec) -> Iterator[HostMount]:
    """Yield the mounts of the trusted files: Gramine's C library in ``/lib``, all else where the host has it."""
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
    return search | {
        "HOME": SCRATCH,
        "LANG": "C.UTF-8",
        "MALLOC_ARENA_MAX": str(ARENAS),
        "LD_PRELOAD": PROVISIONING_LIBRARY,
        "OMP_NUM_THREADS": str(spec.threads),
        "SEALSERVE_PLATFORM": str(PlatformKind.SIMULATED if spec.simulated else PlatformKind.SGX),
        "SEALSERVE_RELEASE_ID": spec.release_id,
        "SECRET_PROVISION_CA_CHAIN_PATH": BROKER_CA_PATH,
        "SECRET_PROVISION_CONSTRUCTOR": "1",
        "SECRET_PROVISION_SERVERS": f"{host}:{port}",
        "SECRET_PROVISION_SET_KEY": KEY_NAME,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_NUM_INTEROP_THREADS": str(spec.threads),
        "TF_NUM_INTRAOP_THREADS": str(spec.threads),
        "TMPDIR": SCRATCH,
    }


def _topmost(files: Iterable[str]) -> list[str]:
    """Return the fewest folders (or files in the root) that hold all of ``files``."""
    paths = [PurePosixPath(path) for path in files]
    places = {path.parent if path.parent != PurePosixPath("/") else path for path in paths}
    return sorted(str(place) for place in places if not places.intersection(place.parents))
