import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness import keys
from tests.harness.errors import Expected, raises
from tests.harness.gramine_stand_in import install

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.gramine_tools import find_tools
from sealserve.enclave.index import BuiltEnclave, verify_enclave_index
from sealserve.enclave.inventory import GramineFiles, MeasuredFile, measure
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.measurement import load_enclave, sigstruct_path
from sealserve.enclave.spec import EnclaveSpec, make_manifest
from sealserve.errors import SealserveError
from sealserve.sealing.release import Release
from sealserve.terms import CpuFeature

LIBPAL = b"loader"
FOLDER = "/usr/lib/x86_64-linux-gnu/gramine"
THERE = GramineFiles(
    folder=FOLDER,
    libos=MeasuredFile(path=f"{FOLDER}/libsysdb.so", size=1, sha256="a" * 64),
    libpal=MeasuredFile(path=f"{FOLDER}/sgx/libpal.so", size=6, sha256=hashlib.sha256(LIBPAL).hexdigest()),
)
Build = Callable[..., BuiltEnclave]
Make = Callable[..., EnclaveSpec]


@pytest.fixture
def build_for_sgx(build: Build, make_spec: Make) -> Build:
    """Return a function that builds an enclave for SGX, with changes to its specification."""

    def build_it(**changes: object) -> BuiltEnclave:
        return build(make_spec(simulated=False, **{"gramine": THERE, **changes}))

    return build_it


@pytest.fixture
def asked(make_spec: Make, broker_ca: bytes) -> EnclaveManifest:
    """The manifest that the tools receive."""
    spec = make_spec(simulated=False, gramine=THERE)
    return make_manifest(spec, broker_ca_sha256=hashlib.sha256(broker_ca).hexdigest())


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts stand-ins for Gramine's tools on the search path."""

    def put(**behaviour: str) -> None:
        programs = install(tmp_path / "gramine", libpal=LIBPAL, **behaviour)
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    return put


def test_an_enclave_for_sgx_is_built_by_gramines_tools(
    build_for_sgx: Build,
    release: Release,
    on_path: Callable[..., None],
    asked: EnclaveManifest,
    index_key: Ed25519PrivateKey,
) -> None:
    on_path()
    built = build_for_sgx()
    assert not built.simulated
    assert built.verified_sigstruct.modulus == keys.signing_key().public_key().public_numbers().n
    assert (built.isv_prod_id, built.isv_svn) == (7, 3)
    manifest = load_enclave(release.folder, "replica-0").manifest
    assert manifest.sgx.cpu_features is not None, "a default that the tools fill in"
    assert manifest.model_copy(update={"sgx": asked.sgx}) == asked
    assert verify_enclave_index(release.folder, index_key.public_key())[0].mr_enclave == built.mr_enclave
    assert build_for_sgx().mr_enclave == built.mr_enclave


def test_a_required_feature_of_the_processor_is_in_the_manifest_and_in_the_sigstruct(
    build_for_sgx: Build, release: Release, on_path: Callable[..., None]
) -> None:
    on_path()
    before = build_for_sgx()
    assert before.attribute_mask.xfrm & 0x6_0000 == 0, "by default, an enclave starts with and without AMX"
    built = build_for_sgx(required_cpu_features=(CpuFeature.AMX, CpuFeature.AVX512))
    manifest = load_enclave(release.folder, "replica-0").manifest
    assert manifest.sgx.cpu_features is not None
    assert manifest.sgx.cpu_features.required == (CpuFeature.AVX512, CpuFeature.AMX)
    assert built.attributes.xfrm == 0x3 | 0xE0 | 0x6_0000
    assert built.attribute_mask.xfrm & 0x6_00E0 == 0x6_00E0
    assert built.mr_enclave != before.mr_enclave, "the setting is measured"


def test_tools_that_drop_a_required_feature_are_refused(
    build_for_sgx: Build, release: Release, on_path: Callable[..., None]
) -> None:
    on_path(change="sgx['cpu_features']['amx'] = 'unspecified'")
    with raises(EnclaveCode.GRAMINE_OTHER_OUTPUT, match="changed settings in the manifest"):
        build_for_sgx(required_cpu_features=(CpuFeature.AMX,))
    assert not sigstruct_path(release.folder, "replica-0").exists()


def test_a_name_that_looks_like_a_template_stays_what_it_is(
    build_for_sgx: Build, release: Release, on_path: Callable[..., None]
) -> None:
    on_path()
    odd = MeasuredFile(path="/opt/{{ cookiecutter.name }}/x.py", size=1, sha256="e" * 64)
    build_for_sgx(trusted_files=(odd, *measure([sys.executable])))
    assert odd.path in {file.path for file in load_enclave(release.folder, "replica-0").manifest.sgx.trusted_files}


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (
            {"failure": "no such option"},
            (EnclaveCode.GRAMINE_TOOL_FAILED, "gramine-sgx-sign ended with status 1: no such option"),
        ),
        (
            {"change": "manifest['loader']['log_level'] = 'none'"},
            (EnclaveCode.GRAMINE_OTHER_OUTPUT, "changed settings in the manifest"),
        ),
        (
            {"change": "sgx['cpu_features']['amx'] = 'required'"},
            (EnclaveCode.GRAMINE_OTHER_OUTPUT, "changed settings in the manifest"),
        ),
        ({"change": "sgx['debug'] = True"}, (SealserveError, r"sgx\.debug")),
    ],
)
def test_what_the_tools_did_wrong_is_said_and_nothing_is_kept(
    build_for_sgx: Build,
    release: Release,
    on_path: Callable[..., None],
    behaviour: dict[str, str],
    expected: tuple[Expected, str],
) -> None:
    on_path(**behaviour)
    with raises(expected[0], match=expected[1]):
        build_for_sgx()
    assert not sigstruct_path(release.folder, "replica-0").exists()


def test_codes() -> None:
    errors = (
        EnclaveCode.GRAMINE_MISSING,
        EnclaveCode.GRAMINE_TOOL_FAILED,
        EnclaveCode.GRAMINE_OTHER_VERSION,
        EnclaveCode.GRAMINE_OTHER_OUTPUT,
    )
    assert [code.value for code in errors] == [
        "gramine.missing",
        "gramine.tool-failed",
        "gramine.other-version",
        "gramine.other-output",
    ]


def test_another_gramine_than_there_would_measure_another_enclave(
    build_for_sgx: Build, on_path: Callable[..., None]
) -> None:
    on_path()
    other = THERE.model_copy(update={"libpal": THERE.libpal.model_copy(update={"sha256": "0" * 64})})
    with raises(EnclaveCode.GRAMINE_OTHER_VERSION, match=r"libpal\.so has SHA-256 \w{64}, and .* 0{64}") as caught:
        build_for_sgx(gramine=other)
    assert "--libpal" in (caught.value.hint or "")


def test_without_gramine(build_for_sgx: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with raises(
        EnclaveCode.GRAMINE_MISSING, match="not on the search path \\(PATH\\): gramine-manifest, gramine-sgx-sign"
    ) as caught:
        build_for_sgx()
    assert "gramine.readthedocs.io" in (caught.value.hint or "")


def test_gramine_without_its_part_for_sgx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = install(tmp_path / "gramine")
    shutil.rmtree(tmp_path / "gramine/lib")
    monkeypatch.setenv("PATH", str(programs))
    with raises(EnclaveCode.GRAMINE_MISSING, match=r"incomplete: gramine/sgx/libpal\.so beside .* is missing"):
        find_tools()
    with raises(EnclaveCode.GRAMINE_MISSING, match="incomplete: /none is missing"):
        find_tools(libpal=Path("/none"))


def test_a_sigstruct_of_another_product_is_refused(
    build_for_sgx: Build, release: Release, on_path: Callable[..., None]
) -> None:
    on_path()
    build_for_sgx()
    first = sigstruct_path(release.folder, "replica-0").read_bytes()
    build_for_sgx(isv_svn=4)
    sigstruct_path(release.folder, "replica-0").write_bytes(first)
    with raises(EnclaveCode.MEASUREMENT, match=r"has product id 7 and SVN 4, and .* signed for 7 and 3"):
        load_enclave(release.folder, "replica-0")


@pytest.mark.skipif(shutil.which("gramine-sgx-sign") is None, reason="needs Gramine 1.9: see its installation guide")
def test_with_gramine_itself(build_for_sgx: Build) -> None:
    libpal = find_tools().libpal.read_bytes()
    there = THERE.model_copy(
        update={"libpal": THERE.libpal.model_copy(update={"sha256": hashlib.sha256(libpal).hexdigest()})}
    )
    first, second = (build_for_sgx(gramine=there, enclave_size=2**28) for _ in range(2))
    assert first.mr_enclave == second.mr_enclave
