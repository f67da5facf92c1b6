"""The public schema of a server: the files that define its services, and the files that these import."""

import contextlib
from collections.abc import Container, Iterable, Iterator

from google.protobuf.descriptor import FileDescriptor


class Schema:
    """The files of some services. Nothing else in the process is visible.

    Args:
        files: The files with the services.
    """

    def __init__(self, files: Iterable[FileDescriptor]) -> None:
        roots = tuple(files)
        self.services = tuple(sorted(service.full_name for file in roots for service in file.services_by_name.values()))
        """The full names of the services."""
        self._pools = list({id(file.pool): file.pool for file in roots}.values())
        self._files = {file.name: file for root in roots for file in _with_imports(root, set())}
        self._methods = {  # the pools do not find methods
            method.full_name: file.name
            for file in roots
            for service in file.services_by_name.values()
            for method in service.methods
        }
        self._serialized = {name: bytes(file.serialized_pb) for name, file in self._files.items()}

    def file_named(self, name: str) -> str | None:
        """Return ``name`` if the file is visible, else None."""
        return name if name in self._files else None

    def file_containing(self, symbol: str) -> str | None:
        """Return the name of the file that defines a symbol, or None if no visible file does.

        Args:
            symbol: The full name of a service, a method, a message, a field, or an enumeration.
        """
        for pool in self._pools:
            with contextlib.suppress(KeyError):
                name = str(pool.FindFileContainingSymbol(symbol).name)
                if name in self._files and self._files[name].pool is pool:
                    return name
        return self._methods.get(symbol)

    def is_message(self, name: str) -> bool:
        """Return whether a visible file defines a message with this full name."""
        file = self.file_containing(name)
        with contextlib.suppress(KeyError):
            return file is not None and self._files[file].pool.FindMessageTypeByName(name) is not None
        return False

    def serialized(self, name: str, sent: Container[str]) -> Iterator[tuple[str, bytes]]:
        """Yield a file and the files that it imports, as names and serialized ``FileDescriptorProto``.

        Args:
            name: The name of the file, which is always included.
            sent: Names of imported files to omit.
        """
        for file in _with_imports(self._files[name], set()):
            if file.name == name or file.name not in sent:
                yield file.name, self._serialized[file.name]


def _with_imports(file: FileDescriptor, seen: set[str]) -> Iterator[FileDescriptor]:
    """Yield a file, and then all files that it imports directly or indirectly, each one once."""
    seen.add(file.name)
    yield file
    for imported in file.dependencies:
        if imported.name not in seen:
            yield from _with_imports(imported, seen)
