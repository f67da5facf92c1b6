import stat
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sealserve.atomic_file import OutputExistsError
from sealserve.attestation.claims import TcbStatus
from sealserve.sgx.appraisal import VerifiedQuote, verify_quote
from sealserve.sgx.pck import Fmspc, PckCa
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.authority import SimulatedStateError
from sealserve.sgx.simulated.documents import CPU_SVN, PCE_SVN, TcbLevel
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import quote
from sealserve.sgx.simulated.vendor import Vendor


def _verify(vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime) -> VerifiedQuote:
    return verify_quote(quote(platform, report), vendor.collateral(now=now), anchor=vendor.anchor, now=now)


def test_private_keys_are_for_their_owner_only(vendor: Vendor) -> None:
    keys = sorted(vendor.folder.glob("*.key"))
    assert [key.stem for key in keys] == ["platform-ca", "processor-ca", "root", "tcb-signing"]
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(vendor.folder.stat().st_mode) == 0o700


def test_it_is_what_it_was_when_it_is_opened_again(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime
) -> None:
    again = Vendor.load(vendor.folder)
    assert again.root_der == vendor.root_der
    assert _verify(again, platform, report, now).tcb_status is TcbStatus.UP_TO_DATE


def test_a_second_one_in_the_same_folder_is_refused(vendor: Vendor, now: datetime) -> None:
    before = vendor.root_der
    with pytest.raises(OutputExistsError, match="vendor already contains a simulated vendor"):
        Vendor.create(vendor.folder, now=now)
    assert Vendor.load(vendor.folder).root_der == before


@pytest.mark.parametrize("missing", ["root.der", "root.key", "tcb-signing.key", "vendor.json"])
def test_a_folder_that_lacks_a_part_is_refused(vendor: Vendor, missing: str) -> None:
    (vendor.folder / missing).unlink()
    with pytest.raises(SimulatedStateError, match=missing) as caught:
        Vendor.load(vendor.folder)
    assert caught.value.code == "simulated.state"


@pytest.mark.parametrize("name", ["root.der", "root.key", "vendor.json"])
def test_a_folder_with_a_damaged_part_is_refused(vendor: Vendor, name: str) -> None:
    (vendor.folder / name).write_text('{"version": 7}')
    with pytest.raises(SimulatedStateError, match=name):
        Vendor.load(vendor.folder)


def test_a_key_of_another_kind_is_refused(vendor: Vendor) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (vendor.folder / "root.key").write_bytes(pem)
    with pytest.raises(SimulatedStateError, match=r"root\.key is not a P-256 key of the simulation"):
        Vendor.load(vendor.folder)


def test_all_names_say_that_it_is_simulated(vendor: Vendor, platform: SimulatedPlatform) -> None:
    chain = platform.chain
    for certificate in (chain.leaf, chain.issuer, chain.root, vendor.tcb_signing.certificate):
        assert "simulated" in certificate.subject.rfc4514_string()
        assert "Intel" not in certificate.subject.rfc4514_string()


def test_a_recovery_leaves_todays_platforms_out_of_date(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime
) -> None:
    before = _verify(vendor, platform, report, now)
    vendor.recover_tcb(advisory_id="SIMULATED-SA-00009")
    after = _verify(vendor, platform, report, now)
    assert (before.tcb_status, after.tcb_status) == (TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE)
    assert after.advisory_ids == ("SIMULATED-SA-00009",)
    assert after.tcb_evaluation_data_number == before.tcb_evaluation_data_number + 1


def test_any_status_can_be_published(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime
) -> None:
    level = TcbLevel(
        cpu_svn=CPU_SVN.hex(),
        pce_svn=PCE_SVN,
        tcb_date="2025-01-01T00:00:00Z",
        status=TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        advisory_ids=("SIMULATED-SA-1", "SIMULATED-SA-2"),
    )
    vendor.publish_levels([level])
    verified = _verify(vendor, platform, report, now)
    assert verified.tcb_status == "ConfigurationAndSWHardeningNeeded"
    assert verified.advisory_ids == ("SIMULATED-SA-1", "SIMULATED-SA-2")


def test_another_kind_of_processor_has_levels_of_its_own(
    vendor: Vendor, tmp_path: Path, report: EnclaveReport, now: datetime
) -> None:
    fmspc = Fmspc("0123456789AB")
    other = SimulatedPlatform.create(vendor, tmp_path / "other", now=now, fmspc=fmspc)
    level = TcbLevel(
        cpu_svn="00" * 16, pce_svn=0, tcb_date="2025-01-01T00:00:00Z", status=TcbStatus.SW_HARDENING_NEEDED
    )
    vendor.publish_levels([level], fmspc=fmspc)
    collateral = vendor.collateral(fmspc, now=now)
    verified = verify_quote(quote(other, report), collateral, anchor=vendor.anchor, now=now)
    assert (verified.fmspc, verified.tcb_status) == (fmspc, TcbStatus.SW_HARDENING_NEEDED)


def test_a_revoked_platform_is_on_the_list_for_good(vendor: Vendor, platform: SimulatedPlatform, now: datetime) -> None:
    serial = platform.chain.leaf.serial_number
    vendor.revoke(serial)
    vendor.revoke(12345)
    later = Vendor.load(vendor.folder).pck_crl(PckCa.PLATFORM, now=now + timedelta(days=300))
    crl = x509.load_der_x509_crl(later)
    assert {entry.serial_number for entry in crl} == {serial, 12345}
    assert crl.is_signature_valid(vendor.platform_ca.key.public_key())
