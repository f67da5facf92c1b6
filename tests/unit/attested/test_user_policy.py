"""The user's policy file: each key, and each fault."""

import base64

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from scripts.attested_example import Example, digest
from tests.harness.errors import raises

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.presets import CLOUD_SMT, STRICT
from sealserve.attested.codes import AttestedCode
from sealserve.attested.user_policy import LARGEST_FILE, UserPolicy, parse_user_policy, tcb_preset
from sealserve.sgx.trust_anchor import TrustAnchor

KEY = digest("owner").hex()
PIN = f"""
[[enclaves]]
mr_enclave = "{"a1" * 32}"
mr_signer = "{"b2" * 32}"
isv_prod_id = 7
isv_svn = 3
"""


def parse(text: str) -> UserPolicy:
    return parse_user_policy(f"version = 1\n{text}".encode())


def test_a_policy_with_an_owner_key_has_defaults() -> None:
    found = parse(f'owner_keys = ["{KEY}"]')
    assert found.owner_keys == (bytes.fromhex(KEY),)
    assert found.tcb == CLOUD_SMT
    assert (found.enclaves, found.releases, found.least_evaluation_number) == ((), frozenset(), 0)
    assert found.anchor == TrustAnchor.intel()
    assert (found.dangerous_operations, found.dangerous_shared_batches) == (frozenset(), False)


def test_a_policy_has_each_key(example: Example) -> None:
    text = f'''
owner_keys = ["{KEY}"]
releases = ["{"c3" * 32}"]
dangerous_operations = ["PrintV2", "WriteFile", "PrintV2"]
dangerous_shared_batches = true
dangerous_simulated_root = """{example.policy_file.split('"""')[1]}"""
[tcb.accept]
UpToDate = []
SWHardeningNeeded = ["INTEL-SA-00615"]
[collateral]
least_evaluation_number = 18
{PIN}'''
    found = parse(text)
    assert found.releases == {"c3" * 32}
    assert found.anchor == example.vendor.anchor
    assert found.tcb.accept == {
        TcbStatus.UP_TO_DATE: frozenset(),
        TcbStatus.SW_HARDENING_NEEDED: frozenset({"INTEL-SA-00615"}),
    }
    assert found.least_evaluation_number == 18
    assert (found.dangerous_operations, found.dangerous_shared_batches) == (frozenset({"PrintV2", "WriteFile"}), True)
    (pin,) = found.enclaves
    assert (pin.mr_enclave.hex(), pin.isv_prod_id, pin.isv_svn) == ("a1" * 32, 7, 3)


def test_the_presets_are_the_presets_of_the_broker() -> None:
    assert tcb_preset("cloud-smt") == CLOUD_SMT
    assert tcb_preset("strict") == STRICT


@pytest.mark.parametrize("text", ["", "owner_keys = []", f'releases = ["{KEY}"]', '[tcb]\npreset = "strict"'])
def test_a_policy_that_pins_nothing_is_an_error(text: str) -> None:
    with raises(AttestedCode.USER_POLICY_EMPTY, match="Pin the key"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("version = 1", "not valid TOML"),
        ('owner_keys = "x"', "owner_keys"),
        ("dangerous_shared_batches = 1", "dangerous_shared_batches"),
        ('dangerous_shared_batches = "true"', "dangerous_shared_batches"),
        ("dangerous_operations = true", "dangerous_operations"),
        ('dangerous_operations = "PrintV2"', "dangerous_operations"),
        ('dangerous_operations = [""]', r"dangerous_operations\.0"),
        ('dangerous_operations = ["Print V2"]', r"dangerous_operations\.0"),
        ('dangerous_operations = ["PrintV2\\n"]', r"dangerous_operations\.0"),
        ("dangerous_operations = [" + ", ".join(['"Op"'] * 257) + "]", "dangerous_operations"),
        ('owner_keys = ["x"]', r"owner_keys\.0"),
        (f'owner_keys = ["{KEY.upper()}"]', r"owner_keys\.0"),
        (f"owner_keys = [{', '.join([repr(KEY)] * 9)}]", "owner_keys"),
        (f'owner_key = ["{KEY}"]', "owner_key: Extra"),
        ('"\\u0000" = 1', "x00"),
        (f'releases = ["{KEY[:-1]}"]', r"releases\.0"),
        (PIN.replace("7", "65536"), r"enclaves\.0\.isv_prod_id"),
        (PIN.replace("3\n", "3\nattributes = 1\n"), r"enclaves\.0\.attributes"),
        (PIN.replace("a1" * 32, "00" * 32), "all its bytes are zero"),
        (PIN.replace("isv_svn = 3", ""), r"enclaves\.0\.isv_svn"),
        (f'owner_keys = ["{KEY}"]\n[tcb]\npreset = "lax"', r"tcb\.preset"),
        (f'owner_keys = ["{KEY}"]\n[tcb]\npreset = "strict"\naccept = {{UpToDate = []}}', "got both"),
        (f'owner_keys = ["{KEY}"]\n[tcb.accept]\nOutOfDate = []', "OutOfDate"),
        (f'owner_keys = ["{KEY}"]\n[tcb.accept]\nRevoked = []', "Revoked"),
        (f'owner_keys = ["{KEY}"]\n[tcb.accept]\nFine = []', "not a TCB status"),
        (f'owner_keys = ["{KEY}"]\n[tcb.accept]\nUpToDate = ["x"]', "advisory"),
        (f'owner_keys = ["{KEY}"]\n[tcb.accept]', "no accepted TCB status"),
        (f'owner_keys = ["{KEY}"]\n[collateral]\nleast_evaluation_number = -1', "least_evaluation_number"),
        (f'owner_keys = ["{KEY}"]\ndangerous_simulated_root = "x"', "certificate in PEM"),
        ("x = " + "[" * 5000, "not valid TOML"),
    ],
)
def test_each_fault_names_the_key(text: str, match: str) -> None:
    with raises(AttestedCode.USER_POLICY_INVALID, match=match):
        parse(text)


def test_a_root_that_is_not_simulated_cannot_be_named(example: Example) -> None:
    text = example.vendor.platform_ca.certificate.public_bytes(Encoding.PEM).decode()
    with raises(AttestedCode.USER_POLICY_INVALID, match="trust anchor"):
        parse(f'owner_keys = ["{KEY}"]\ndangerous_simulated_root = """{text}"""')


def test_a_root_of_an_invalid_version_is_an_error_with_a_code(example: Example) -> None:
    der = example.vendor.platform_ca.certificate.public_bytes(Encoding.DER)
    altered = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05", 1)
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(altered).decode()}-----END CERTIFICATE-----\n"
    with raises(AttestedCode.USER_POLICY_INVALID, match="certificate in PEM"):
        parse(f'owner_keys = ["{KEY}"]\ndangerous_simulated_root = """{pem}"""')


@pytest.mark.parametrize("content", [b"\xff", b"version = 2\n", b"", b"#" * (LARGEST_FILE + 1)])
def test_a_file_of_another_kind_is_refused(content: bytes) -> None:
    with raises(AttestedCode.USER_POLICY_INVALID):
        parse_user_policy(content)


def test_a_key_of_another_length_is_refused() -> None:
    with raises(AttestedCode.USER_POLICY_INVALID, match="32 bytes"):
        UserPolicy(tcb=CLOUD_SMT, owner_keys=(bytes(31),))
