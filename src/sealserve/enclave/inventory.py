"""The inventory of the files that an enclave will trust: path, size and SHA-256 of each file.

With an inventory, the owner's machine measures files that it does not have: the files of an image or of a host. The
inventory contains no secret. It is not trusted by itself: the owner takes it from an image that the owner built or
checked.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from sealserve.canonical_document import CanonicalDocument, DocumentPart, ListedFile
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.image_root import ImageRoot
from sealserve.enclave.server_files import list_gramine, list_server
from sealserve.errors import ErrorCode
from sealserve.regular_file import InputFileError, open_regular, read_regular
from sealserve.terms import ServerKind

MAX_SIZE: Final = 64 * 2**20
_WORKERS: Final = min(4, os.cpu_count() or 1)  # hashing releases Python's lock


_Path = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f\x7f]+$")]


class MeasuredFile(ListedFile):
    """A file: its absolute path where the server runs, its size in bytes, its SHA-256 in hexadecimal."""

    path: _Path


class GramineFiles(DocumentPart):
    """Gramine's installation where the server runs.

    Args:
        folder: Gramine's folder. ``runtime/glibc`` in it holds the C library for programs in the enclave.
        libos: The library OS. The manifest contains its digest.
        libpal: The loader, which is the first file in an enclave on SGX. It is measured page by page.
    """

    folder: _Path
    libos: MeasuredFile
    libpal: MeasuredFile


class Inventory(CanonicalDocument):
    """A complete inventory, with files in ascending order and without duplicates.

    Args:
        server: The kind of model server.
        program: The path of the program to start: the server's binary, or Python.
        gramine: Gramine's files. None if Gramine is not installed: the inventory then serves simulated enclaves only.
        files: The files that the server may open.
    """

    what: ClassVar[str] = "inventory of an enclave's files"
    refusal: ClassVar[ErrorCode] = EnclaveCode.INVENTORY_INVALID
    refusal_hint: ClassVar[str | None] = "Create an inventory with `sealserve enclave inventory --output FILE`."

    version: Literal[1] = 1
    server: Annotated[ServerKind, Field(strict=False)]
    program: _Path
    gramine: GramineFiles | None = None
    files: Annotated[tuple[MeasuredFile, ...], Field(min_length=1)]

    @property
    def size(self) -> int:
        """The sum of all sizes, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def uncompiled(self) -> int:
        """The number of Python modules without bytecode among the files. Python compiles them at each start."""
        parts = [file.path.rpartition("/") for file in self.files]
        compiled = {f"{folder}/{name.rsplit('.', 2)[0]}.py" for folder, _, name in parts if name.endswith(".pyc")}
        sources = (f"{folder}/__pycache__/{name}" for folder, _, name in parts if name.endswith(".py"))
        return sum(source not in compiled for source in sources)

    @property
    def digest(self) -> str:
        """The SHA-256 of its bytes, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = [file.path for file in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("the files must be in ascending order, without duplicates")
        if any(os.path.normpath(path) != path for path in (*paths, self.program)):
            raise ValueError("the paths must be normalized")
        if self.program not in paths:
            raise ValueError(f"the program {self.program} must be among the files")
        return self


def read_inventory(path: Path) -> Inventory:
    """Read an inventory from a file.

    Raises:
        InputError: `inventory.invalid`: The file is not a valid inventory.
        SealserveError: The errors of `read_regular`.
    """
    return Inventory.parse(read_regular(path, limit=MAX_SIZE), name=str(path))


def take_inventory(
    root: ImageRoot,
    server: ServerKind,
    *,
    program: str,
    gramine: str,
    progress: Callable[[int], None] | None = None,
) -> Inventory:
    """Measure the files that an enclave with this server would trust.

    Args:
        root: The image's files, or this machine's.
        server: The kind of model server.
        program: The server's binary, or the Python of its virtual environment.
        gramine: Gramine's folder.
        progress: Called after each file with its size in bytes, from any thread.

    Raises:
        InputError: `image-root.unusable`: The image cannot be read.
        InputError: `inventory.server-missing`: The image does not contain the server.
        InputError: `enclave.trusted-source`: One of its files cannot be read.
    """
    there = list_gramine(root, gramine)
    paths = list_server(root, server, program=program, gramine=there)
    files = measure(paths, root=root, progress=progress)
    gramine_files = None
    if there is not None:
        libos, libpal = measure((there.libos, there.libpal), root=root, progress=progress)
        gramine_files = GramineFiles(folder=there.folder, libos=libos, libpal=libpal)
    return Inventory(server=server, program=program, gramine=gramine_files, files=files)


def measure(
    paths: Iterable[str], *, root: ImageRoot | None = None, progress: Callable[[int], None] | None = None
) -> tuple[MeasuredFile, ...]:
    """Measure files: return the size and SHA-256 of each of ``paths`` (absolute), in ascending order, each once.

    Args:
        paths: The paths inside ``root``.
        root: The image; by default this machine.
        progress: Called after each file with its size in bytes, from any thread.

    Raises:
        InputError: `enclave.trusted-source`: A file cannot be read; the message names it.
    """
    place = root or ImageRoot(Path("/"))

    def one(path: str) -> MeasuredFile:
        file = _measure(place.locate(path), path)
        if progress is not None:
            progress(file.size)
        return file

    with ThreadPoolExecutor(_WORKERS) as pool:
        return tuple(pool.map(one, sorted(set(paths))))


def _measure(place: Path, path: str) -> MeasuredFile:
    try:
        with open_regular(place) as descriptor, open(descriptor, "rb", closefd=False) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return MeasuredFile(path=path, size=stream.tell(), sha256=digest)
    except InputFileError as error:
        raise EnclaveCode.TRUSTED_SOURCE.error(
            f"{place} cannot be measured, because it cannot be read: {error.reason}."
        ) from error
    except OSError as error:
        raise EnclaveCode.TRUSTED_SOURCE.error(
            f"{place} cannot be measured, because it cannot be read: {error.strerror}."
        ) from error
