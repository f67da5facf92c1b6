"""The keystore in a PKCS#11 token: SoftHSM, through the wrapper and through the verbs that an owner types."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.harness import openbao, softhsm
from tests.harness.command_line import CommandLine
from tests.harness.errors import raises
from tests.harness.running import deployment
from tests.harness.softhsm import PIN, SoftHsm
from tests.harness.workspaces import Site, make_site

from sealserve.broker import stored_key
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyUnwrapError
from sealserve.broker.keystore import KeyId
from sealserve.broker.pkcs11_key import Pkcs11Key
from sealserve.broker.stored_key import FORMAT, ISSUING_FORMAT
from sealserve.broker.tables import KEYS
from sealserve.doctor.finding import Verdict
from sealserve.doctor.owner_checks import owner as examine_owner
from sealserve.owner import issuing
from sealserve.owner.owner import Owner
from sealserve.pki.issuing import load_key
from sealserve.private_file import PrivateFileExposedError
from sealserve.secret import SecretBytes

pytestmark = pytest.mark.integration

SECRET = SecretBytes(b"0123456789abcdef")


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    return softhsm.make(tmp_path / "hsm", monkeypatch)


@pytest.fixture
def key(hsm: SoftHsm) -> Iterator[Pkcs11Key]:
    with opened(hsm) as key:
        yield key


def opened(hsm: SoftHsm, **changes: Any) -> Pkcs11Key:
    settings = {"token": "owner", "key": "sealserve", "pin_file": hsm.pin_file, **changes}
    return Pkcs11Key(settings.pop("module", hsm.module), **settings)


def workers(module: Path) -> list[int]:
    """Return the processes of this test that have loaded the module."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"pkcs11_worker" in (folder / "cmdline").read_bytes() and os.getppid() != int(folder.name):
                status = (folder / "status").read_text()
                if f"PPid:\t{os.getpid()}\n" in status:
                    found.append(int(folder.name))
        except OSError:
            continue
    assert module.exists()
    return found


def test_a_secret_comes_back_for_the_same_context_only(key: Pkcs11Key) -> None:
    wrapped = key.wrap(SECRET, context=b"one")
    assert key.wrapper_id == "pkcs11:owner/sealserve"
    assert len(wrapped) == 12 + 16 + 16
    assert SECRET.reveal() not in wrapped
    assert key.wrap(SECRET, context=b"one") != wrapped
    assert key.unwrap(wrapped, context=b"one") == SECRET
    changed = [
        bytes([wrapped[0] ^ 1]) + wrapped[1:],
        wrapped[:-1] + bytes([wrapped[-1] ^ 1]),
        wrapped[:-1],
        b"",
        bytes(44),
    ]
    for content, context in [(wrapped, b"another"), (wrapped, b""), *((other, b"one") for other in changed)]:
        with pytest.raises(KeyUnwrapError, match="with the key 'sealserve' of the token 'owner'"):
            key.unwrap(content, context=context)
    assert key.unwrap(wrapped, context=b"one") == SECRET  # the session survives


def test_the_pin_is_in_no_argument_no_environment_and_no_text(
    hsm: SoftHsm, key: Pkcs11Key, caplog: pytest.LogCaptureFixture
) -> None:
    key.check()
    (pid,) = workers(hsm.module)
    shown = Path(f"/proc/{pid}/cmdline").read_bytes() + repr(key).encode() + caplog.text.encode()
    if os.geteuid() == 0:  # the process forbids inspection by its own user
        shown += Path(f"/proc/{pid}/environ").read_bytes()
    assert PIN.encode() not in shown
    key.close()
    assert workers(hsm.module) == []


def test_a_wrong_pin_is_used_once(hsm: SoftHsm) -> None:
    hsm.write_pin("wrong-Pin-1")
    with opened(hsm) as key:
        with raises(BrokerCode.KEYSTORE_PKCS11_PIN_WRONG, match="The token 'owner' rejects the PIN") as caught:
            key.wrap(SECRET, context=b"")
        assert caught.value.code == "keystore.pkcs11-pin-wrong"
        assert "wrong-Pin-1" not in f"{caught.value!r} {caught.value.hint}"
        for _ in range(3):
            with raises(BrokerCode.KEYSTORE_PKCS11_PIN_WRONG, match="rejected the PIN in .* earlier"):
                key.wrap(SECRET, context=b"")
        hsm.write_pin(PIN)
        assert key.unwrap(key.wrap(SECRET, context=b""), context=b"") == SECRET


def test_a_pin_file_that_others_can_read_is_refused(hsm: SoftHsm, key: Pkcs11Key) -> None:
    hsm.pin_file.chmod(0o640)
    with pytest.raises(PrivateFileExposedError, match="Other users can access the PIN"):
        key.wrap(SECRET, context=b"")
    assert workers(hsm.module) == []


def test_a_missing_token_and_several_tokens(hsm: SoftHsm) -> None:
    with (
        opened(hsm, token="other") as key,
        raises(
            BrokerCode.KEYSTORE_PKCS11_TOKEN, match=r"one token with the label 'other', got only '', 'owner'"
        ) as caught,
    ):
        key.check()
    assert caught.value.code == "keystore.pkcs11-token"
    hsm.create_token("owner")
    with opened(hsm) as key, raises(BrokerCode.KEYSTORE_PKCS11_TOKEN, match="got several tokens"):
        key.check()
    with (
        opened(hsm, serial="0000") as key,
        raises(BrokerCode.KEYSTORE_PKCS11_TOKEN, match="the serial number '0000', got only"),
    ):
        key.check()


def test_a_removed_key_and_a_second_key_of_the_same_label(hsm: SoftHsm, key: Pkcs11Key) -> None:
    wrapped = key.wrap(SECRET, context=b"")
    hsm.create_key("sealserve")
    assert key.unwrap(wrapped, context=b"") == SECRET  # the session holds the key that it found
    with opened(hsm) as other, raises(BrokerCode.KEYSTORE_PKCS11_KEY, match="got several secret keys") as caught:
        other.check()
    assert caught.value.code == "keystore.pkcs11-key"
    hsm.delete_key("sealserve")
    with raises(BrokerCode.KEYSTORE_PKCS11_KEY, match="one key 'sealserve', got no secret key"):
        key.unwrap(wrapped, context=b"")
    hsm.create_key("sealserve")
    with pytest.raises(KeyUnwrapError):  # another key with the same label
        key.unwrap(wrapped, context=b"")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"exported": True}, r"CKA_SENSITIVE must be True, CKA_EXTRACTABLE must be False"),
        ({"kind": "GENERIC_SECRET"}, "is not an AES key"),
    ],
)
def test_an_unsafe_key_is_refused(hsm: SoftHsm, how: dict[str, Any], message: str) -> None:
    hsm.create_key("unsafe", **how)
    with (
        opened(hsm, key="unsafe") as key,
        raises(BrokerCode.KEYSTORE_PKCS11_KEY_ATTRIBUTES, match=message) as caught,
    ):
        key.wrap(SECRET, context=b"")
    assert caught.value.code == "keystore.pkcs11-key-attributes"


def test_eight_threads_at_once(hsm: SoftHsm, key: Pkcs11Key) -> None:
    def work(number: int) -> bool:
        secret = SecretBytes(bytes([number]) * 16)
        return all(
            key.unwrap(key.wrap(secret, context=bytes([number])), context=bytes([number])) == secret for _ in range(25)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(workers(hsm.module)) == 1


def test_a_module_that_crashed_is_started_again(hsm: SoftHsm, key: Pkcs11Key) -> None:
    wrapped = key.wrap(SECRET, context=b"")
    (pid,) = workers(hsm.module)
    os.kill(pid, signal.SIGKILL)
    assert key.unwrap(wrapped, context=b"") == SECRET
    assert workers(hsm.module) != [pid]


def test_signals_for_the_broker_do_not_end_the_module(hsm: SoftHsm, key: Pkcs11Key) -> None:
    wrapped = key.wrap(SECRET, context=b"")
    (pid,) = workers(hsm.module)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert key.unwrap(wrapped, context=b"") == SECRET
    assert workers(hsm.module) == [pid]


def test_a_module_that_hangs_is_ended(hsm: SoftHsm, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "module.so")  # the dynamic linker waits for a writer, and holds the interpreter's lock
    with opened(hsm, module=tmp_path / "module.so", seconds=1) as key:
        with raises(
            BrokerCode.KEYSTORE_PKCS11_UNAVAILABLE, match="The PKCS#11 module did not reply within 1 seconds"
        ) as caught:
            key.wrap(SECRET, context=b"")
        assert caught.value.code == "keystore.pkcs11-unavailable"
        assert workers(hsm.module) == []


def test_a_file_that_is_not_a_module(hsm: SoftHsm, tmp_path: Path) -> None:
    (tmp_path / "module.so").write_text("not a library")
    with (
        opened(hsm, module=tmp_path / "module.so") as key,
        raises(BrokerCode.KEYSTORE_PKCS11_SETTINGS, match="The PKCS#11 module cannot be loaded") as caught,
    ):
        key.wrap(SECRET, context=b"")
    assert caught.value.code == "keystore.pkcs11-settings"
    with raises(BrokerCode.KEYSTORE_PKCS11_SETTINGS, match="does not exist"):
        opened(hsm, module=tmp_path / "missing.so")
    for changes in ({"token": "a/b"}, {"token": ""}, {"key": "two\nlines"}, {"token": "x" * 33}):
        with raises(BrokerCode.KEYSTORE_PKCS11_SETTINGS, match="The PKCS#11 settings are invalid"):
            opened(hsm, **changes)


def stored(site: Site) -> set[tuple[str, int]]:
    with Database.open(site.workspace.owner.database) as database, database.read() as connection:
        return {(row[0], row[1]) for row in connection.execute(select(KEYS.c.wrapper, KEYS.c.format))}


def both(wrapper: str) -> set[tuple[str, int]]:
    """Return what `stored` returns if ``wrapper`` encrypted both the release key and the issuing key."""
    return {(wrapper, FORMAT), (wrapper, ISSUING_FORMAT)}


def issues(site: Site) -> bool:
    """Return whether the keystore decrypts the private key of the present issuing certificate."""
    certificate = issuing.read_certificate(site.workspace)
    with Owner.open(site.workspace).vault() as vault:
        with vault.database.read() as connection:
            found = stored_key.find_issuing(connection, KeyId(certificate.key_id))
        with vault.keystore.decrypt(found) as key:
            return load_key(key).public_key() == certificate.certificate.public_key()


def loads(site: Site, key_id: str) -> bytes:
    with Owner.open(site.workspace).vault() as vault, vault.database.read() as connection:
        return vault.keystore.load(connection, KeyId(key_id)).reveal()


def test_keys_move_from_the_file_to_the_token_to_the_service_and_back(
    hsm: SoftHsm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = CommandLine(capsys, tmp_path / "site")
    site = make_site(tmp_path / "site")
    site.import_model()
    site.certify()
    release = site.build_release()
    key_id = release.index.key_id
    secret = loads(site, key_id)
    source = site.directory / "half-plus-two"
    # To the token.
    site = make_site(site.directory, source=source, keystore=hsm.settings)
    assert loads(site, key_id) == secret  # the file still decrypts the earlier key
    moved = cli.json("broker", "rotate-master")
    assert (moved["keys"], moved["place"]) == (2, "key 'sealserve' of the token 'owner'")
    site.workspace.owner.master_key.unlink()
    assert stored(site) == both("pkcs11:owner/sealserve")
    assert loads(site, key_id) == secret
    assert issues(site)
    # A backup contains a key that the token encrypted.
    assert cli("backup", tmp_path / "backup").status == 0
    there = make_site(tmp_path / "restored", keystore=hsm.settings)
    there.workspace.root.rename(tmp_path / "unused")
    assert cli.bare("restore", tmp_path / "backup", "--directory", there.directory).status == 0
    assert loads(there, key_id) == secret
    assert issues(there)
    # Without the settings, the error names the wrapper and the settings.
    make_site(site.directory, source=source)
    with raises(
        BrokerCode.KEYSTORE_UNKNOWN_WRAPPER, match=r"'pkcs11:owner/sealserve' encrypted it.*Set pkcs11_module"
    ) as caught:
        loads(site, key_id)
    assert caught.value.code == "keystore.unknown-wrapper"
    # To the service, and back to a file.
    with openbao.running(tmp_path) as server:
        make_site(site.directory, source=source, keystore={**hsm.settings, **server.settings})
        assert cli.json("broker", "rotate-master")["keys"] == 2
        assert stored(site) == both("transit:transit/sealserve")
        assert loads(site, key_id) == secret
        assert issues(site)
        make_site(site.directory, source=source, keystore={**server.settings, "kind": "file"})
        assert cli.json("broker", "rotate-master")["keys"] == 2
    make_site(site.directory, source=source)
    assert stored(site) == both("file")
    assert loads(site, key_id) == secret
    assert issues(site)


def test_a_ciphertext_cannot_be_moved_to_another_wrapper(hsm: SoftHsm, tmp_path: Path) -> None:
    hsm.create_key("copy")
    site = make_site(tmp_path / "site", keystore=hsm.settings)
    with Owner.open(site.workspace).vault(create=True) as vault:
        first, second = (vault.keystore.create(vault.database, now=datetime.now(UTC)) for _ in range(2))
        with vault.database.write() as connection:
            wrapped = connection.execute(select(KEYS.c.wrapped).where(KEYS.c.key_id == first.key_id)).scalar_one()
            connection.execute(update(KEYS).where(KEYS.c.key_id == second.key_id).values(wrapped=wrapped))
    for key_id, changes in (
        (second.key_id, {}),  # another key's ciphertext
        (first.key_id, {"wrapper": "pkcs11"}),  # the name that an upgraded database uses
        (first.key_id, {"format": 1}),  # the earlier context
        (first.key_id, {"wrapper": "pkcs11", "format": 1}),
    ):
        with Database.open(site.workspace.owner.database) as database, database.write() as connection:
            connection.execute(
                update(KEYS).where(KEYS.c.key_id == key_id).values(
                    {"wrapper": "pkcs11:owner/sealserve", "format": 2, **changes}
                )
            )  # fmt: skip
        with pytest.raises(KeyUnwrapError):
            loads(site, key_id)


def test_doctor_checks_the_token(hsm: SoftHsm, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", keystore=hsm.settings)

    def found() -> tuple[Verdict, str]:
        findings = examine_owner(site.deployment.platform, site.workspace, site.deployment)
        (finding,) = [finding for finding in findings if finding.name == "PKCS#11 token"]
        return finding.verdict, f"{finding.found} {finding.remedy}"

    assert found() == (Verdict.OK, "key 'sealserve' of the token 'owner' ")
    hsm.delete_key("sealserve")
    verdict, text = found()
    assert verdict is Verdict.MISSING
    assert "got no secret key" in text
    assert "pkcs11-tool --keygen" in text


@pytest.mark.tensorflow
def test_an_enclave_gets_a_key_from_the_token(hsm: SoftHsm, capsys: pytest.CaptureFixture[str]) -> None:
    with deployment(capsys, keystore=hsm.settings, target={"replicas": 1}) as here:
        here.up()
        assert here.states()["replica-0"] == "serving"
        assert not here.site.workspace.owner.master_key.exists()
        assert stored(here.site) == both("pkcs11:owner/sealserve")
        assert [row["decision"] for row in here.json("broker", "log")][-1:] == ["released"]
