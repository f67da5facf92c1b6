import hashlib
import importlib.util
import os
import py_compile
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises

import sealserve
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.inventory import GramineFiles, MeasuredFile, measure
from sealserve.enclave.manifest import HostMount, TmpfsMount
from sealserve.enclave.server_command import isolation
from sealserve.enclave.spec import EnclaveSpec, make_manifest, model_server_files, release_mounts
from sealserve.sealing.release import Release

Make = Callable[..., EnclaveSpec]
CA = "c" * 64
GRAMINE = GramineFiles(
    folder="/usr/lib/x86_64-linux-gnu/gramine",
    libos=MeasuredFile(path="/usr/lib/x86_64-linux-gnu/gramine/libsysdb.so", size=1, sha256="a" * 64),
    libpal=MeasuredFile(path="/usr/lib/x86_64-linux-gnu/gramine/sgx/libpal.so", size=1, sha256="b" * 64),
)


def test_the_manifest_has_what_an_enclave_needs(make_spec: Make, release: Release) -> None:
    manifest = make_manifest(make_spec(threads=2), broker_ca_sha256=CA)

    environment = manifest.loader.env
    assert environment["SEALSERVE_RELEASE_ID"] == release.id
    assert environment["SEALSERVE_PLATFORM"] == "simulated"
    assert environment["LD_PRELOAD"] == "libsecret_prov_attest.so"
    assert environment["SECRET_PROVISION_CONSTRUCTOR"] == "1"
    assert environment["SECRET_PROVISION_SET_KEY"] == "release"
    assert environment["SECRET_PROVISION_SERVERS"] == "127.0.0.1:4433"
    assert environment["SECRET_PROVISION_CA_CHAIN_PATH"] == "/broker-ca.pem"
    assert environment["OMP_NUM_THREADS"] == environment["TF_NUM_INTRAOP_THREADS"] == "2"
    assert manifest.libos.entrypoint == sys.executable
    assert manifest.loader.argv[:3] == [sys.executable, "-m", "sealserve.serving"]
    assert manifest.fs.root.type == "tmpfs"
    assert not manifest.sgx.debug
    assert manifest.sgx.remote_attestation == "dcap"
    assert manifest.sgx.max_threads == 80
    assert not manifest.sgx.edmm_enable
    assert (manifest.sgx.isvprodid, manifest.sgx.isvsvn) == (7, 3)
    assert [(file.path, file.sha256) for file in manifest.sgx.trusted_files] == [
        ("enclave/broker-ca.pem", CA),
        (sys.executable, hashlib.sha256(Path(sys.executable).read_bytes()).hexdigest()),
    ]
    assert [mount.path for mount in manifest.fs.mounts if isinstance(mount, HostMount)] == [
        "/broker-ca.pem",
        str(Path(sys.executable).parent),
    ]
    assert [mount.path for mount in manifest.fs.mounts if isinstance(mount, TmpfsMount)] == ["/release/scratch"]
    assert environment["TMPDIR"] == environment["HOME"] == "/release/scratch"


def test_for_sgx_only_the_mark_differs(make_spec: Make) -> None:
    simulated = make_manifest(make_spec(gramine=GRAMINE), broker_ca_sha256=CA).to_bytes()
    sgx = make_manifest(make_spec(gramine=GRAMINE, simulated=False), broker_ca_sha256=CA).to_bytes()

    assert simulated.replace(b'SEALSERVE_PLATFORM = "simulated"', b'SEALSERVE_PLATFORM = "sgx"') == sgx


@pytest.mark.parametrize(("simulated", "device"), [(True, "/release/attestation"), (False, "/dev/attestation")])
def test_an_enclave_that_attests_itself_has_a_device_and_no_provisioning_library(
    make_spec: Make, simulated: bool, device: str
) -> None:
    files = {} if simulated else {"gramine": GRAMINE}
    spec = make_spec(attests=True, simulated=simulated, **files)
    environment = make_manifest(spec, broker_ca_sha256="0" * 64).loader.env

    assert environment["SEALSERVE_ATTESTATION_DEVICE"] == device
    assert not {"LD_PRELOAD", "SECRET_PROVISION_CONSTRUCTOR"} & environment.keys()
    assert environment["SECRET_PROVISION_SET_KEY"] == "release"
    assert environment["SECRET_PROVISION_SERVERS"]


def test_with_gramine_programs_find_its_c_library_first(make_spec: Make) -> None:
    runtime = MeasuredFile(path="/usr/lib/x86_64-linux-gnu/gramine/runtime/glibc/libc.so.6", size=1, sha256="d" * 64)
    trusted = (*measure([sys.executable, "/bin/true"]), runtime, *measure(["/usr/lib/x86_64-linux-gnu/libc.so.6"]))
    manifest = make_manifest(make_spec(gramine=GRAMINE, trusted_files=trusted), broker_ca_sha256=CA)
    folders = ["/bin", "/usr/lib/x86_64-linux-gnu", str(Path(sys.executable).parent)]

    assert manifest.loader.entrypoint is not None
    assert manifest.loader.entrypoint.uri == "file:/usr/lib/x86_64-linux-gnu/gramine/libsysdb.so"
    assert manifest.loader.entrypoint.sha256 == "a" * 64
    assert manifest.loader.env["LD_LIBRARY_PATH"] == "/lib:/usr/lib/x86_64-linux-gnu"
    assert [(mount.path, mount.uri) for mount in manifest.fs.mounts if isinstance(mount, HostMount)] == [
        ("/broker-ca.pem", "file:enclave/broker-ca.pem"),
        ("/lib", "file:/usr/lib/x86_64-linux-gnu/gramine/runtime/glibc"),
        *((folder, f"file:{folder}") for folder in sorted(folders)),
    ]
    assert runtime.path in {file.path for file in manifest.sgx.trusted_files}
    assert manifest.host_path("/lib/libc.so.6") == runtime.path


def test_a_python_finds_its_own_library_before_the_systems(make_spec: Make) -> None:
    own, systems = (
        MeasuredFile(path=f"{folder}/libpython3.11.so.1.0", size=1, sha256="d" * 64)
        for folder in ("/opt/python/lib", "/usr/lib/x86_64-linux-gnu")
    )
    manifest = make_manifest(
        make_spec(gramine=GRAMINE, trusted_files=(own, systems, *measure([sys.executable]))), broker_ca_sha256=CA
    )
    assert manifest.loader.env["LD_LIBRARY_PATH"] == "/lib:/opt/python/lib:/usr/lib/x86_64-linux-gnu"


def test_for_sgx_there_must_be_gramine(make_spec: Make) -> None:
    with raises(
        EnclaveCode.INVALID_SPEC, match="cannot be built for SGX: the inventory does not contain Gramine"
    ) as caught:
        make_spec(simulated=False)
    assert "enclave inventory" in (caught.value.hint or "")


def test_the_same_specification_has_the_same_bytes(make_spec: Make, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.write_bytes(b"content")
    files = measure([str(one), str(two), sys.executable])

    first = make_manifest(make_spec(trusted_files=(*files, files[0])), broker_ca_sha256=CA).to_bytes()
    second = make_manifest(make_spec(trusted_files=files[::-1]), broker_ca_sha256=CA).to_bytes()

    assert first == second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../x"}, "the name must have"),
        ({"release_id": "abc"}, "the release id must be 64 hexadecimal digits, got 'abc'"),
        ({"argv": ()}, "the program"),
        ({"argv": ("python",)}, "the program"),
        ({"mounts": ()}, "at least one mount"),
        ({"broker": ("::1", 4433)}, "from 1 to 65535, got '::1':4433"),
        ({"broker": ("a;b", 4433)}, "the broker"),
        ({"broker": ("host", 0)}, "from 1 to 65535, got 'host':0"),
        ({"threads": 0}, "the number of threads must be at least 1, got 0"),
        ({"max_threads": 3}, "the number of all threads must be from 4 to 65535, got 3"),
        ({"enclave_size": 3 * 2**30}, "a power of two"),
        ({"enclave_size": 2**10}, "at least 1 MiB"),
        ({"isv_prod_id": 2**16}, "the product id"),
        ({"isv_svn": -1}, "the security version"),
    ],
)
def test_what_does_not_fit_together_is_said(make_spec: Make, changes: dict[str, Any], message: str) -> None:
    with raises(EnclaveCode.INVALID_SPEC) as caught:
        make_spec(**changes)

    assert caught.value.code == "enclave.invalid-spec"
    assert message in str(caught.value)


def test_the_model_server_is_measured() -> None:
    files = model_server_files()
    assert files[0] == Path(sys.executable)
    assert Path(sealserve.__file__) in files
    assert {path.suffix for path in files[2:]} == {".py", ".toml"}
    # It decides which models an attested server accepts.
    assert Path(sealserve.__file__).parent / "model" / "operations.toml" in files
    assert list(files[2:]) == sorted(files[2:])


def test_the_model_server_runs_what_is_measured_and_no_cached_bytecode(tmp_path: Path) -> None:
    module = tmp_path / "planted.py"
    module.write_text("print('other')\n")
    cached = Path(importlib.util.cache_from_source(str(module)))
    py_compile.compile(str(module), str(cached), doraise=True)
    planted, times = cached.read_bytes(), module.stat()
    module.write_text("print('mine!')\n")  # of the same size
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    options = isolation(bytecode=False)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import planted"

    def run(*options: str) -> str:
        return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True).stdout

    assert run("-I", "-B") == "other\n", "Python trusts a cached file that names the module's size and time"
    assert run(*options) == "mine!\n"
    assert cached.read_bytes() == planted
    assert not Path("/release/scratch/no-bytecode").exists()


def test_a_release_is_mounted_as_it_is(release: Release) -> None:
    assert [(mount.path, mount.uri) for mount in release_mounts(release.folder)] == [
        ("/release/files.json", "file:files.json"),
        ("/release/models", "file:models/"),
        ("/release/tls", "file:tls/"),
    ]
