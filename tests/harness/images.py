"""Folders that look like the unpacked images of model servers, with tiny files."""

import struct
from pathlib import Path
from typing import Final

GRAMINE: Final = "usr/lib/x86_64-linux-gnu/gramine"
_PHEADER: Final = struct.Struct("<IIQQQQQQ")
_UNCHECKED_HASH: Final = b"\xa7\r\r\n\x01\x00\x00\x00" + bytes(8)
_TIMESTAMP: Final = b"\xa7\r\r\n\x00\x00\x00\x00" + bytes(8)


def elf(*needed: str, machine: int = 62) -> bytes:
    """Return a small ELF file that asks for these libraries."""
    strings, at = b"\0", []
    for name in needed:
        at.append(len(strings))
        strings += name.encode() + b"\0"
    table = 64 + 2 * _PHEADER.size
    base = 0x400000
    entries = [(1, offset) for offset in at] + [(5, base + table), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", tag, value) for tag, value in entries)
    size = table + len(strings) + len(dynamic)
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    )
    load = _PHEADER.pack(1, 5, 0, base, base, size, size, 4096)
    section = _PHEADER.pack(2, 6, table + len(strings), 0, 0, len(dynamic), len(dynamic), 8)
    return header + load + section + strings + dynamic


def embedded_image(folder: Path) -> Path:
    """Write the files of an image with sealserve-model-server in ``/opt/sealserve``, without Gramine."""
    files: dict[str, bytes] = {
        "usr/bin/python3.11": b"interpreter",
        "usr/lib/libpython3.11.so.1.0": b"libpython",
        "usr/lib/python3.11/os.py": b"import sys",
        "usr/lib/python3.11/__pycache__/os.cpython-311.pyc": _UNCHECKED_HASH,
        "usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so": elf("libssl.so.3", "libc.so.6"),
        "usr/lib/python3.11/lib-dynload/_tkinter.cpython-311-x86_64-linux-gnu.so": elf("libX11.so.6"),
        "usr/lib/python3.11/tkinter/__init__.py": b"",
        "usr/lib/python3.11/test/test_os.py": b"tests of the standard library",
        "usr/lib/python3.11/dist-packages/other.py": b"not of this environment",
        "usr/lib/x86_64-linux-gnu/libc.so.6": b"the system's libc",
        "usr/lib/x86_64-linux-gnu/libssl.so.3": elf("libcrypto.so.3", "libgone.so.1"),
        "usr/lib/x86_64-linux-gnu/libcrypto.so.3": elf("libssl.so.3"),
        "usr/lib/x86_64-linux-gnu/libX11.so.6": elf(),
        "usr/lib/x86_64-linux-gnu/librsvg-2.so.2": elf("libc.so.6"),
        "usr/lib/x86_64-linux-gnu/libgcc_s.so.1": elf("libc.so.6"),
        "usr/lib/x86_64-linux-gnu/libssl.a": b"static",
        "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so": b"too deep",
        "opt/sealserve/pyvenv.cfg": b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n",
    }
    packages = "opt/sealserve/lib/python3.11/site-packages"
    files |= {
        f"{packages}/sealserve/__init__.py": b"",
        f"{packages}/sealserve/__pycache__/__init__.cpython-311.pyc": _TIMESTAMP,
        f"{packages}/sealserve/py.typed": b"",
        f"{packages}/sealserve-0.1.0.dist-info/METADATA": b"Name: sealserve",
        f"{packages}/sealserve-0.1.0.dist-info/RECORD": b"when and where",
        f"{packages}/tensorflow/include/eigen.h": b"a header",
        f"{packages}/tensorflow/libtensorflow_cc.so.2": b"tensorflow",
        f"{packages}/extra.pth": b"/srv/extra\nimport sys\n/nowhere\n",
        "srv/extra/plugin.py": b"plugin",
    }
    write(folder, files)
    (folder / "lib").symlink_to("usr/lib")
    (folder / "opt/sealserve/bin").mkdir()
    (folder / "opt/sealserve/bin/python").symlink_to("python3")
    (folder / "opt/sealserve/bin/python3").symlink_to("/usr/bin/python3.11")
    return folder


def tensorflow_serving_image(folder: Path) -> Path:
    """Write the files of an image with TensorFlow Serving's binary, without Gramine."""
    write(folder, {
        "usr/bin/tensorflow_model_server": elf("libstdc++.so.6", "libc.so.6"),
        "usr/lib/x86_64-linux-gnu/librsvg-2.so.2": elf("libc.so.6"),
        "usr/lib/x86_64-linux-gnu/libc.so.6": b"the system's libc",
        "usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30": b"libstdc++",
    })  # fmt: skip
    (folder / "usr/lib/x86_64-linux-gnu/libstdc++.so.6").symlink_to("libstdc++.so.6.0.30")
    return folder


def add_gramine(folder: Path) -> None:
    """Write Gramine's files into an image."""
    write(folder, {
        f"{GRAMINE}/libsysdb.so": b"library OS",
        f"{GRAMINE}/sgx/libpal.so": b"loader",
        f"{GRAMINE}/direct/libpal.so": b"another loader",
        f"{GRAMINE}/runtime/glibc/libc.so.6": b"Gramine's libc",
        f"{GRAMINE}/runtime/glibc/ld-linux-x86-64.so.2": b"Gramine's loader",
        f"{GRAMINE}/runtime/glibc/crt1.o": b"for linking",
        "usr/lib/x86_64-linux-gnu/libsecret_prov_attest.so": b"provisioning",
    })  # fmt: skip
    (folder / GRAMINE / "runtime/glibc/libsecret_prov_attest.so").symlink_to("../../../libsecret_prov_attest.so")


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files below a folder."""
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
