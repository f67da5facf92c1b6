from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.images import add_gramine, elf, embedded_image, tensorflow_serving_image, write

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.image_root import ImageRoot
from sealserve.enclave.server_files import GRAMINE_FOLDER, PROGRAMS, list_gramine, list_server
from sealserve.terms import ServerKind

PYTHON = PROGRAMS[ServerKind.EMBEDDED]
BINARY = PROGRAMS[ServerKind.TENSORFLOW_SERVING]
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
PACKAGES = "/opt/sealserve/lib/python3.11/site-packages"


def test_the_embedded_server_with_all_of_its_python(tmp_path: Path) -> None:
    root = ImageRoot(embedded_image(tmp_path))
    assert list_server(root, ServerKind.EMBEDDED, program=PYTHON, gramine=list_gramine(root)) == (
        PYTHON,
        f"{PACKAGES}/extra.pth",
        f"{PACKAGES}/sealserve-0.1.0.dist-info/METADATA",
        f"{PACKAGES}/sealserve/__init__.py",
        f"{PACKAGES}/sealserve/py.typed",
        f"{PACKAGES}/tensorflow/libtensorflow_cc.so.2",
        "/opt/sealserve/pyvenv.cfg",
        "/srv/extra/plugin.py",
        "/usr/lib/libpython3.11.so.1.0",
        "/usr/lib/python3.11/__pycache__/os.cpython-311.pyc",
        "/usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so",
        "/usr/lib/python3.11/os.py",
        f"{LIBRARIES}/libc.so.6",
        f"{LIBRARIES}/libcrypto.so.3",
        f"{LIBRARIES}/libgcc_s.so.1",
        f"{LIBRARIES}/libssl.so.3",
    )


def test_tensorflow_serving_with_the_system_libraries(tmp_path: Path) -> None:
    root = ImageRoot(tensorflow_serving_image(tmp_path))
    assert list_server(root, ServerKind.TENSORFLOW_SERVING, program=BINARY, gramine=None) == (
        BINARY,
        f"{LIBRARIES}/libc.so.6",
        f"{LIBRARIES}/libstdc++.so.6",
        f"{LIBRARIES}/libstdc++.so.6.0.30",
    )


def test_with_gramine_its_c_library_takes_the_place_of_the_systems(tmp_path: Path) -> None:
    root = ImageRoot(tensorflow_serving_image(tmp_path))
    assert list_gramine(root) is None
    add_gramine(tmp_path)
    gramine = list_gramine(root)
    assert gramine is not None
    assert (gramine.libos, gramine.libpal) == (f"{GRAMINE_FOLDER}/libsysdb.so", f"{GRAMINE_FOLDER}/sgx/libpal.so")
    assert list_server(root, ServerKind.TENSORFLOW_SERVING, program=BINARY, gramine=gramine) == (
        BINARY,
        f"{GRAMINE_FOLDER}/runtime/glibc/ld-linux-x86-64.so.2",
        f"{GRAMINE_FOLDER}/runtime/glibc/libc.so.6",
        f"{GRAMINE_FOLDER}/runtime/glibc/libsecret_prov_attest.so",
        f"{LIBRARIES}/libstdc++.so.6",
        f"{LIBRARIES}/libstdc++.so.6.0.30",
    )


def test_libraries_that_nobody_asks_for_are_left_out(tmp_path: Path) -> None:
    root = ImageRoot(embedded_image(tmp_path))
    listed = list_server(root, ServerKind.EMBEDDED, program=PYTHON, gramine=None)
    assert not [path for path in listed if "librsvg" in path or "libX11" in path or "tkinter" in path]
    write(tmp_path, {"opt/sealserve/lib/python3.11/site-packages/x.so": elf("librsvg-2.so.2")})
    assert f"{LIBRARIES}/librsvg-2.so.2" in list_server(root, ServerKind.EMBEDDED, program=PYTHON, gramine=None)


def test_a_library_folder_beside_usr(tmp_path: Path) -> None:
    root = ImageRoot(tensorflow_serving_image(tmp_path))
    write(tmp_path, {"lib/x86_64-linux-gnu/libz.so.1": b"zlib", BINARY[1:]: elf("libz.so.1")})
    assert "/lib/x86_64-linux-gnu/libz.so.1" in list_server(
        root, ServerKind.TENSORFLOW_SERVING, program=BINARY, gramine=None
    )


@pytest.mark.parametrize("program", ["/usr/bin/none", "usr/bin/python3.11", "/usr/bin"])
def test_no_server(tmp_path: Path, program: str) -> None:
    root = ImageRoot(embedded_image(tmp_path))
    with raises(
        EnclaveCode.INVENTORY_SERVER_MISSING, match=f"{program} is not an absolute path of a file in {tmp_path}"
    ) as caught:
        list_server(root, ServerKind.EMBEDDED, program=program, gramine=None)
    assert caught.value.code == "inventory.server-missing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "does not belong to a virtual environment"),
        ("version = 3.11.2\n", "does not name its Python: `home` or `version` is missing"),
        ("home = bin\nversion = 3.11.2\n", "does not name its Python"),
        ("home = /usr/bin\nversion = 2.7\n", "does not name its Python"),
        (
            "home = /usr/local/bin\nversion_info = 3.11.2\n",
            "incomplete: the folder /usr/local/lib/python3.11 is missing",
        ),
        ("home = /usr/bin\nversion_info = 3.12.1\n", "incomplete: the folder /usr/lib/python3.12 is missing"),
    ],
)
def test_an_environment_without_its_python(tmp_path: Path, settings: str | None, message: str) -> None:
    root = ImageRoot(embedded_image(tmp_path))
    path = tmp_path / "opt/sealserve/pyvenv.cfg"
    path.unlink() if settings is None else path.write_text(settings)
    with raises(EnclaveCode.INVENTORY_SERVER_MISSING, match=message):
        list_server(root, ServerKind.EMBEDDED, program=PYTHON, gramine=None)
