#!/usr/bin/env python3
"""Compile the native cipher of sealed files, if a C compiler and the headers of Python and OpenSSL are installed.

It is optional: without it, a slower implementation in Python is used. A library that is up to date is not compiled
again. The library uses Python's stable ABI of 3.11, and is linked to the distribution's libcrypto.

    .venv/bin/python scripts/native.py [--required]
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "sealserve" / "sealing" / "_node_cipher.c"
LIBRARY = SOURCE.with_suffix(".abi3.so")
REMEDY = "apt-get install gcc libc6-dev libssl-dev python3-dev"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
HARDENING = ["-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack"]


def compile_library(library: Path | None = None) -> str | None:
    """Compile the library, unless it is newer than its source.

    Args:
        library: The file to write. `None` means the file beside the source, which a checkout uses.

    Returns:
        The reason for a failure, or `None` on success.
    """
    library = library or LIBRARY
    if library.is_file() and library.stat().st_mtime_ns > SOURCE.stat().st_mtime_ns:
        return None
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        return "no C compiler is installed"
    temporary = library.with_name(f".{library.name}.{os.getpid()}")
    command = [
        *compiler, "-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", *WARNINGS, *HARDENING,
        f"-I{sysconfig.get_path('include')}", str(SOURCE), "-o", str(temporary), "-lcrypto",
    ]  # fmt: skip
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if result.returncode != 0:
            causes = [line for line in result.stderr.splitlines() if "error" in line]
            return causes[0] if causes else f"the compiler ended with {result.returncode}"
        probe = f"import ctypes, sys; ctypes.PyDLL({str(temporary)!r})"
        if subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode != 0:
            return "the compiled library does not load"
        temporary.replace(library)  # an atomic rename, so that running processes keep the old library
    finally:
        temporary.unlink(missing_ok=True)
    return None


def main() -> None:
    """Compile the library. With ``--required``, a failure is an error."""
    reason = compile_library()
    if reason is not None:
        print(f"native: not compiled: {reason}. On Debian or Ubuntu: {REMEDY}", file=sys.stderr)
        raise SystemExit(4 if "--required" in sys.argv[1:] else 0)


if __name__ == "__main__":
    main()
