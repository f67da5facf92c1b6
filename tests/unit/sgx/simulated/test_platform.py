import dataclasses
import stat
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.atomic_file import OutputExistsError
from sealserve.sgx.pck import Fmspc, PckCa, PckExtension
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import Attributes, EnclaveReport
from sealserve.sgx.simulated import pck_extension
from sealserve.sgx.simulated.authority import SimulatedStateError
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import quote
from sealserve.sgx.simulated.vendor import Vendor


def test_private_keys_are_for_their_owner_only(platform: SimulatedPlatform, tmp_path: Path) -> None:
    keys = sorted((tmp_path / "platform").glob("*.key"))
    assert [key.stem for key in keys] == ["attestation", "pck"]
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(platform)


def test_it_is_the_same_platform_when_it_is_opened_again(platform: SimulatedPlatform, tmp_path: Path) -> None:
    again = SimulatedPlatform.load(tmp_path / "platform")
    assert again.platform_id == platform.platform_id
    assert again.qe_id == platform.qe_id


def test_each_platform_has_an_identity_of_its_own(
    vendor: Vendor, platform: SimulatedPlatform, tmp_path: Path, now: datetime
) -> None:
    other = SimulatedPlatform.create(vendor, tmp_path / "other", now=now)
    assert other.platform_id != platform.platform_id
    assert other.chain.leaf.serial_number != platform.chain.leaf.serial_number


def test_a_second_one_in_the_same_folder_is_refused(
    vendor: Vendor, platform: SimulatedPlatform, tmp_path: Path, now: datetime
) -> None:
    with pytest.raises(OutputExistsError, match="platform already contains a simulated platform"):
        SimulatedPlatform.create(vendor, tmp_path / "platform", now=now)
    assert SimulatedPlatform.load(tmp_path / "platform").platform_id == platform.platform_id


@pytest.mark.parametrize("name", ["platform.json", "pck-chain.pem", "pck.key", "attestation.key"])
@pytest.mark.usefixtures("platform")
def test_a_folder_that_lacks_or_damages_a_part_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "platform" / name
    path.write_text("{}")
    with pytest.raises(SimulatedStateError, match=r"is not a private key|does not contain a simulated platform"):
        SimulatedPlatform.load(tmp_path / "platform")
    path.unlink()
    with pytest.raises(SimulatedStateError, match=r"is not a private key|does not contain a simulated platform"):
        SimulatedPlatform.load(tmp_path / "platform")


def test_an_empty_folder_is_no_platform(tmp_path: Path) -> None:
    with pytest.raises(SimulatedStateError, match="does not contain a simulated platform") as caught:
        SimulatedPlatform.load(tmp_path)
    assert caught.value.code == "simulated.state"


def test_only_the_platform_ca_gives_an_instance_id(vendor: Vendor, tmp_path: Path, now: datetime) -> None:
    single = SimulatedPlatform.create(vendor, tmp_path / "single", now=now, ca=PckCa.PROCESSOR)
    assert single.chain.extension.platform_instance_id is None
    assert single.platform_id == single.chain.extension.ppid.hex()


@pytest.mark.parametrize("flags", [0x5, 0x7, 0x85])
def test_reports_are_quoted_as_given(platform: SimulatedPlatform, report: EnclaveReport, flags: int) -> None:
    given_ = dataclasses.replace(report, attributes=Attributes(flags=flags, xfrm=0xE7))
    quoted = Quote.parse(quote(platform, given_)).report
    assert quoted == dataclasses.replace(given_, cpu_svn=platform.chain.extension.cpu_svn)


@given(
    ppid=st.binary(min_size=16, max_size=16),
    cpu_svn=st.binary(min_size=16, max_size=16),
    pce_svn=st.integers(0, 65535),
    fmspc=st.binary(min_size=6, max_size=6),
    instance=st.none() | st.binary(min_size=16, max_size=16),
)
def test_what_a_pck_certificate_says_is_read_back(
    *, ppid: bytes, cpu_svn: bytes, pce_svn: int, fmspc: bytes, instance: bytes | None
) -> None:
    extension = PckExtension(
        ppid=ppid,
        cpu_svn=cpu_svn,
        pce_svn=pce_svn,
        pce_id=b"\0\1",
        fmspc=Fmspc(fmspc.hex().upper()),
        platform_instance_id=instance,
    )
    assert PckExtension.parse(pck_extension.encode(extension).value) == extension
