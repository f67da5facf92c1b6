"""The device with plain files, as a broken library OS could offer it, and the device of the simulated enclave."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.attestation.attest_messages import MAXIMUM_QUOTE
from sealserve.attester.codes import AttesterCode
from sealserve.attester.device import AttestationDevice
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.simulated.attestation_device import SimulatedDevice
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes
from sealserve.sgx.codes import SgxCode

KEY = bytes(range(16))
REPORT_DATA = bytes(range(64))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return tmp_path


def simulated(
    root: Path,
    *,
    quote_for: Callable[[bytes], bytes] = lambda data: b"quote of " + data,
    open_mounts: Callable[[SecretBytes], None] = lambda _: None,
) -> SimulatedDevice:
    return SimulatedDevice(root / "device", key_name="release", quote_for=quote_for, open_mounts=open_mounts)


def test_report_data_is_written_and_the_quote_is_read(root: Path) -> None:
    (root / "quote").write_bytes(b"quote")

    assert AttestationDevice(root).quote(REPORT_DATA) == b"quote"
    assert (root / "user_report_data").read_bytes() == REPORT_DATA


@pytest.mark.parametrize("content", [b"", bytes(MAXIMUM_QUOTE + 1)])
def test_a_quote_of_unusable_size_is_refused(root: Path, content: bytes) -> None:
    (root / "quote").write_bytes(content)

    with raises(AttesterCode.QUOTE, match="no usable quote"):
        AttestationDevice(root).quote(REPORT_DATA)


def test_a_missing_device_is_named(tmp_path: Path) -> None:
    with raises(AttesterCode.DEVICE, match=r"user_report_data: No such file"):
        AttestationDevice(tmp_path / "nothing").quote(REPORT_DATA)


def test_the_key_is_written_and_read_back(root: Path) -> None:
    AttestationDevice(root).set_key("release", SecretBytes(KEY))

    assert (root / "keys/release").read_bytes() == KEY


def test_a_device_that_cannot_keep_the_key_is_named(root: Path) -> None:
    (root / "keys/release").symlink_to("/dev/null")

    with raises(AttesterCode.DEVICE, match="did not accept the key") as caught:
        AttestationDevice(root).set_key("release", SecretBytes(KEY))

    assert KEY.hex() not in str(caught.value)


def test_the_simulated_device_has_the_same_files(root: Path) -> None:
    opened = []
    with simulated(root, open_mounts=lambda key: opened.append(key.reveal())) as served:
        served.start()
        device = AttestationDevice(root / "device")

        assert device.quote(REPORT_DATA) == b"quote of " + REPORT_DATA
        device.set_key("release", SecretBytes(KEY))
        assert opened == [KEY]  # before `set_key` returned
        assert device.quote(bytes(64)) == b"quote of " + bytes(64)

    served.check()


def test_a_quoting_service_that_is_down_is_reported_inside(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[SealserveError | bytes] = [SgxCode.QUOTING_UNAVAILABLE.error("the service is down"), b"quote"]

    def quote_for(_: bytes) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, SealserveError):
            raise answer
        return answer

    with simulated(root, quote_for=quote_for) as served:
        served.start()
        device = AttestationDevice(root / "device")
        with raises(AttesterCode.QUOTE):
            device.quote(REPORT_DATA)
        assert device.quote(REPORT_DATA) == b"quote"  # a repetition can succeed

    assert "error[quoting.unavailable]: the service is down" in caplog.text


def test_a_key_that_opens_nothing_is_an_error_inside_and_outside(root: Path) -> None:
    def open_mounts(_: SecretBytes) -> None:
        raise EnclaveCode.MOUNT_SOURCE.error("missing")

    with simulated(root, open_mounts=open_mounts) as served:
        served.start()
        with raises(AttesterCode.DEVICE, match="did not accept the key"):
            AttestationDevice(root / "device").set_key("release", SecretBytes(KEY))

    with raises(EnclaveCode.MOUNT_SOURCE):
        served.check()


def test_a_key_of_another_length_is_refused(root: Path) -> None:
    opened: list[SecretBytes] = []
    with simulated(root, open_mounts=opened.append) as served:
        served.start()
        with raises(AttesterCode.DEVICE):
            AttestationDevice(root / "device").set_key("release", SecretBytes(KEY + b"\0"))

    with raises(EnclaveCode.DEVICE, match="expected 16 bytes, got 17"):
        served.check()
    assert opened == []


def test_report_data_of_another_length_gets_no_quote(root: Path) -> None:
    with simulated(root) as served:
        served.start()
        (root / "device/user_report_data").write_bytes(b"short")
        assert (root / "device/quote").read_bytes() == b""


def test_the_files_are_private(root: Path) -> None:
    with simulated(root):
        modes = {path.name: path.stat().st_mode & 0o777 for path in (root / "device").rglob("*")}

    assert modes == {"user_report_data": 0o600, "quote": 0o600, "keys": 0o700, "release": 0o600}
