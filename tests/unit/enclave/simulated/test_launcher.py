import logging
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.index import BuiltEnclave
from sealserve.enclave.signing import resign
from sealserve.enclave.simulated.launcher import PLATFORM_XFRM, load_simulated
from sealserve.enclave.spec import EnclaveSpec
from sealserve.sealing.release import Release
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.terms import CpuFeature

Change = Callable[[bytes, bytes], None]


@pytest.fixture
def change(
    release: Release,
    build: Callable[..., BuiltEnclave],
    make_spec: Callable[..., EnclaveSpec],
    signing_key: RSAPrivateKey,
) -> Change:
    """Return a function that builds an enclave, changes its manifest and signs it again."""

    def change(old: bytes, new: bytes) -> None:
        manifest = build(make_spec()).manifest
        assert old in manifest.read_bytes()
        manifest.write_bytes(manifest.read_bytes().replace(old, new))
        resign(release.folder, "replica-0", signing_key=signing_key, signed_on=date(2026, 11, 23))

    return change


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'SEALSERVE_PLATFORM = "simulated"', b'SEALSERVE_PLATFORM = "sgx"', "was built for the platform 'sgx'"),
    ],
)
def test_only_what_is_made_for_simulation_runs_in_it(
    release: Release, change: Change, old: bytes, new: bytes, message: str
) -> None:
    change(old, new)

    with raises(EnclaveCode.NOT_SIMULATED, match=message) as caught:
        load_simulated(release.folder, "replica-0")

    assert caught.value.code == "enclave.not-simulated"


def test_a_release_where_the_private_files_go_is_refused(release: Release, change: Change) -> None:
    top = Path(*release.folder.parts[:2])
    change(b"/release/", f"{top}/".encode())

    with raises(EnclaveCode.PLACE, match=f"mounts its private files at {top}") as caught:
        load_simulated(release.folder, "replica-0")

    assert caught.value.code == "enclave.place"


def test_a_feature_that_the_simulated_platform_lacks(
    release: Release, build: Callable[..., BuiltEnclave], make_spec: Callable[..., EnclaveSpec]
) -> None:
    build(make_spec(required_cpu_features=(CpuFeature.AVX512,)))
    enclave = load_simulated(release.folder, "replica-0")
    attributes = enclave.sigstruct.launch_attributes(PLATFORM_XFRM)
    values = ReferenceValues.of_sigstruct(enclave.sigstruct)
    assert (values.xfrm & 0xE0, values.xfrm_mask & 0xE0, attributes.xfrm & 0xE0) == (0xE0, 0xE0, 0xE0)

    build(make_spec(required_cpu_features=(CpuFeature.AMX, CpuFeature.AVX)))
    with raises(EnclaveCode.CPU_FEATURE, match="it requires amx, which the simulated platform lacks") as caught:
        load_simulated(release.folder, "replica-0")
    assert caught.value.code == "enclave.cpu-feature"


def test_loading_is_logged_with_its_evidence(
    release: Release,
    build: Callable[..., BuiltEnclave],
    make_spec: Callable[..., EnclaveSpec],
    caplog: pytest.LogCaptureFixture,
) -> None:
    built = build(make_spec())

    with caplog.at_level(logging.INFO):
        load_simulated(release.folder, "replica-0")

    warning, measured, trusted = (record.getMessage() for record in caplog.records[-3:])
    assert warning == "simulated enclave replica-0: simulation protects nothing from this machine's root"
    assert f"step=measured enclave=replica-0 mr_enclave={built.mr_enclave.hex()} mr_signer=" in measured
    assert measured.endswith(f"isv_prod_id=7 isv_svn=3 debug=False release={release.id}")
    assert trusted == "step=trusted-files verified=2"
