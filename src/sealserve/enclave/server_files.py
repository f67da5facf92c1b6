"""Determines the files that a model server opens, from the folders of an image or of this machine. Nothing is executed.

For the embedded server these are: the virtual environment's Python, its ``pyvenv.cfg``, the standard library with
libpython, all site-packages, and the folders that ``.pth`` files add to the path. Files that no running server opens
are left out:

- headers (``include`` folders);
- the standard library's own tests, and its modules for terminals and screens;
- records of how a package was installed, whose folders and times would make two equal trees differ;
- bytecode that is validated by the time of its source.

The list contains a library of the system only if one of these files requires it (DT_NEEDED), directly or through other
libraries. It also contains the few libraries that glibc opens by name.

Bytecode is included if it is hash-based (``python -m compileall -f --invalidation-mode unchecked-hash``). Its bytes do
not depend on the time of compilation. The bytecode is measured itself, so its source is not needed to trust it.

Source: PEP 552 (flags in bytes 4 to 7 of a ``.pyc``); Python documentation, ``site`` (``pyvenv.cfg``, ``.pth``);
glibc 2.41, ``sysdeps/nptl/unwind-link.c`` and ``nss/nss_module.c`` (libraries that are opened by name);
Gramine 1.9, ``debian/gramine.install`` (where its files are), ``CI-Examples/python/python.manifest.template``.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.elf_libraries import needed_libraries
from sealserve.enclave.image_root import ImageRoot
from sealserve.terms import ServerKind

LIBRARY_FOLDER: Final = "/usr/lib/x86_64-linux-gnu"
GRAMINE_FOLDER: Final = f"{LIBRARY_FOLDER}/gramine"
LIBRARY_OS: Final = "libsysdb.so"
# Inside the enclave, Gramine's C library comes first (Gramine 1.9, CI-Examples/python/python.manifest.template).
RUNTIME_FOLDER: Final = "runtime/glibc"
PROGRAMS: Final = {
    ServerKind.EMBEDDED: "/opt/sealserve/bin/python",
    ServerKind.TENSORFLOW_SERVING: "/usr/bin/tensorflow_model_server",
}
"""The path of each server's program in the images."""

_INSTALLATION_RECORDS: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"})
# Parts of the standard library: its own tests, packages of other folders, and modules for a terminal or a screen.
_NOT_OPENED: Final = (
    "test/", "site-packages/", "dist-packages/", "tkinter/", "idlelib/", "turtledemo/", "curses/",
    "lib-dynload/_tkinter.", "lib-dynload/_curses", "lib-dynload/readline.", "lib-dynload/nis.",
)  # fmt: skip
_HASH_BASED: Final = 0b01
_SHARED_LIBRARY: Final = re.compile(r"\.so(\.[0-9.]+)?$")
# Libraries that glibc opens by name: for unwinding a cancelled thread, and for resolving names of hosts and users.
_OPENED_BY_NAME: Final = re.compile(r"libgcc_s\.so\.1|libresolv\.so\.2|libnss_[a-z0-9_]+\.so\.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gramine:
    """The paths of Gramine's files inside an image. All paths are absolute.

    Args:
        folder: Gramine's folder.
        libos: The library OS.
        libpal: The loader for SGX.
        runtime: The libraries that programs in the enclave find in ``/lib``.
    """

    folder: str
    libos: str
    libpal: str
    runtime: tuple[str, ...]


def list_gramine(root: ImageRoot, folder: str = GRAMINE_FOLDER) -> Gramine | None:
    """Return Gramine's files in an image, or None if Gramine for SGX is not installed in it."""
    found = Gramine(
        folder=folder,
        libos=f"{folder}/{LIBRARY_OS}",
        libpal=f"{folder}/sgx/libpal.so",
        runtime=tuple(_shared_libraries(root, f"{folder}/{RUNTIME_FOLDER}")),
    )
    return found if found.runtime and root.is_file(found.libos) and root.is_file(found.libpal) else None


def list_server(root: ImageRoot, server: ServerKind, *, program: str, gramine: Gramine | None) -> tuple[str, ...]:
    """Return the absolute paths of the files that a server opens, in ascending order.

    Args:
        root: The image.
        server: The kind of model server.
        program: The server's binary, or the Python of its virtual environment.
        gramine: Gramine's files in the image. Its C library then replaces the system's.

    Raises:
        InputError: `inventory.server-missing`: The image does not contain the server.
    """
    if not program.startswith("/") or not root.is_file(program):
        raise EnclaveCode.INVENTORY_SERVER_MISSING.error(
            f"The model server was not found: {program} is not an absolute path of a file in {root.folder}.",
            hint="Pass its path inside the image with --program.",
        )
    runtime = gramine.runtime if gramine else ()
    own = set(_python_environment(root, program)) if server is ServerKind.EMBEDDED else set()
    libraries = _system_libraries(root, {program, *runtime, *own}, provided={_name(path) for path in runtime})
    return tuple(sorted({program, *runtime, *libraries, *own}))


def _python_environment(root: ImageRoot, program: str) -> Iterator[str]:
    environment = PurePosixPath(program).parent.parent
    settings = f"{environment}/pyvenv.cfg"
    if not root.is_file(settings):
        raise EnclaveCode.INVENTORY_SERVER_MISSING.error(
            f"{program} does not belong to a virtual environment: {settings} is missing in {root.folder}.",
            hint="Install sealserve into a virtual environment, and pass its bin/python with --program.",
        )
    base, version = _base(root, settings)
    name = f"python{version}"
    standard, packages = f"{base}/lib/{name}", f"{environment}/lib/{name}/site-packages"
    for folder in (standard, packages):
        if not root.is_folder(folder):
            raise EnclaveCode.INVENTORY_SERVER_MISSING.error(
                f"The Python of {settings} is incomplete: the folder {folder} is missing in {root.folder}.",
                hint="Install Python with its standard library in the image, and create the virtual environment again.",
            )
    yield settings
    yield from _shared_libraries(root, f"{base}/lib")
    skipped = tuple(f"{standard}/{part}" for part in _NOT_OPENED)
    yield from (path for path in _modules(root, standard) if not path.startswith(skipped))
    yield from _modules(root, packages)
    for folder in _added_folders(root, packages):
        yield from _modules(root, folder)


def _base(root: ImageRoot, settings: str) -> tuple[str, str]:
    """Return the prefix of the Python that created a virtual environment, and its version, such as ``3.11``."""
    text = root.locate(settings).read_text(encoding="utf-8", errors="replace")
    values = dict(re.findall(r"^\s*(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    home, version = values.get("home", ""), values.get("version") or values.get("version_info", "")
    found = re.match(r"3\.\d+", version)
    if not home.startswith("/") or found is None:
        raise EnclaveCode.INVENTORY_SERVER_MISSING.error(
            f"{settings} in {root.folder} does not name its Python: `home` or `version` is missing.",
            hint="Create the virtual environment again with `python3 -m venv`.",
        )
    return str(PurePosixPath(home).parent), found[0]


def _modules(root: ImageRoot, folder: str) -> Iterator[str]:
    """Yield the files that a program may open in a folder of modules and their data."""
    for path in root.files(folder):
        below = path.removeprefix(f"{folder}/").split("/")
        if "include" in below[:-1] or (below[-1] in _INSTALLATION_RECORDS and below[0].endswith(".dist-info")):
            continue
        if below[-1].endswith(".pyc") and not _is_hash_based(root, path):
            continue
        yield path


def _is_hash_based(root: ImageRoot, path: str) -> bool:
    try:
        with root.locate(path).open("rb") as stream:
            return bool(int.from_bytes(stream.read(8)[4:], "little") & _HASH_BASED)
    except OSError:
        return True  # include the file, so that measuring it reports the error


def _added_folders(root: ImageRoot, packages: str) -> Iterator[str]:
    """Yield the folders that ``.pth`` files add to the path, such as the source of an editable installation."""
    for path in sorted(root.files(packages, deep=False)):
        if path.endswith(".pth"):
            for line in root.locate(path).read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("/") and root.is_folder(line.strip()):
                    yield line.strip().rstrip("/")


def _system_libraries(root: ImageRoot, seeds: Collection[str], *, provided: Collection[str]) -> set[str]:
    """Return the system's libraries that the files in ``seeds`` require, directly or through other libraries.

    A machine has hundreds of other libraries. If they were measured, each update of one library would stop the enclave.

    Args:
        root: The image.
        seeds: The program, and every file that it may load.
        provided: The names of the libraries in Gramine's C library. They come first, so the system's are never opened.
    """
    available = {_name(path): path for path in _library_places(root)}
    pending = [path for path in seeds if _SHARED_LIBRARY.search(path) or "." not in _name(path)]
    wanted = {name for name in available if _OPENED_BY_NAME.fullmatch(name)}
    found: set[str] = set()
    while pending or wanted:
        for path in pending:
            wanted.update(needed_libraries(root.locate(path)))
        new = {available[name] for name in wanted if name in available and name not in provided} - found
        found |= new
        pending, wanted = list(new), set()
    return found | {target for path in found if (target := _target(root, path)) in available.values()}


def _target(root: ImageRoot, path: str) -> str:
    """Return the path of a link's target, as a file in the link's folder."""
    return f"{PurePosixPath(path).parent}/{root.locate(path).name}"


def _library_places(root: ImageRoot) -> Iterator[str]:
    if root.locate(unmerged := LIBRARY_FOLDER.removeprefix("/usr")) != root.locate(LIBRARY_FOLDER):
        yield from _shared_libraries(root, unmerged)
    yield from _shared_libraries(root, LIBRARY_FOLDER)


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _shared_libraries(root: ImageRoot, folder: str) -> Iterator[str]:
    """Yield the shared libraries directly in a folder, because the dynamic loader does not search folders below it."""
    if root.is_folder(folder):
        yield from (path for path in root.files(folder, deep=False) if _SHARED_LIBRARY.search(path))
