"""The policy file that `user trust` writes, and the default path."""

import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from scripts.attested_example import ed25519

from sealserve.attested.user_policy import parse_user_policy
from sealserve.client.policy_file import default_policy_file, parse_owner_key, trusting
from sealserve.errors import SealserveError

KEY = ed25519("owner").public_key().public_bytes_raw()
FULL = f"""# a comment
version = 1
owner_keys = ["{"ab" * 32}"]
releases = ["{"cd" * 32}"]
dangerous_operations = ["PrintV2", "WriteFile"]
dangerous_shared_batches = true

[tcb.accept]
UpToDate = []
SWHardeningNeeded = ["INTEL-SA-00615", "INTEL-SA-00334"]

[collateral]
least_evaluation_number = 17

[[enclaves]]
mr_enclave = "{"01" * 32}"
mr_signer = "{"02" * 32}"
isv_prod_id = 7
isv_svn = 3

[[enclaves]]
mr_enclave = "{"03" * 32}"
mr_signer = "{"02" * 32}"
isv_prod_id = 7
isv_svn = 4
""".encode()


def test_every_setting_of_a_policy_is_kept() -> None:
    made = trusting(FULL, owner_key=KEY, releases=["ef" * 32])
    before, after = tomllib.loads(FULL.decode()), tomllib.loads(made.decode())
    assert after.pop("owner_keys") == ["ab" * 32, KEY.hex()]
    assert after.pop("releases") == ["cd" * 32, "ef" * 32]
    assert after == {name: value for name, value in before.items() if name not in ("owner_keys", "releases")}
    assert parse_user_policy(made).enclaves == parse_user_policy(FULL).enclaves
    assert trusting(made, owner_key=KEY) == made


def test_a_preset_replaces_the_accepted_statuses() -> None:
    assert tomllib.loads(trusting(FULL, owner_key=KEY, preset="strict").decode())["tcb"] == {"preset": "strict"}


def test_accepted_dangers_are_added_and_stay() -> None:
    made = trusting(None, owner_key=KEY, dangerous_operations=["PrintV2"])
    assert parse_user_policy(made).dangerous_shared_batches is False
    made = trusting(made, owner_key=KEY, dangerous_operations=["PyFunc", "PrintV2"], dangerous_shared_batches=True)
    policy = parse_user_policy(trusting(made, owner_key=KEY))
    assert (sorted(policy.dangerous_operations), policy.dangerous_shared_batches) == (["PrintV2", "PyFunc"], True)


@pytest.mark.parametrize("content", [b"version = 2\n", b"\xff", b"version = 1\nunknown = 1\n", b"[[["])
def test_an_invalid_file_is_not_replaced(content: bytes) -> None:
    with pytest.raises(SealserveError) as caught:
        trusting(content, owner_key=KEY)
    assert caught.value.code == "user-policy.invalid"


def test_a_ninth_owner_is_refused() -> None:
    made = None
    for number in range(8):
        made = trusting(made, owner_key=bytes([number]) * 32)
    with pytest.raises(SealserveError) as caught:
        trusting(made, owner_key=KEY)
    assert caught.value.code == "user-policy.invalid"


@pytest.mark.parametrize("text", ["x = 1", '"\n[tcb]\npreset = "strict', 'a"""\nreleases = ["'])
def test_a_root_cannot_inject_settings(text: str) -> None:
    with pytest.raises(SealserveError) as caught:
        trusting(None, owner_key=KEY, dangerous_simulated_root=text)
    assert caught.value.code == "user-policy.invalid"


def test_owner_keys(tmp_path: Path) -> None:
    assert parse_owner_key(f" {KEY.hex().upper()}\n") == KEY
    pem = tmp_path / "owner.pub"
    pem.write_bytes(ed25519("owner").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert parse_owner_key(str(pem)) == KEY
    other = generate_private_key(SECP256R1()).public_key()
    pem.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(SealserveError) as caught:
        parse_owner_key(str(pem))
    assert caught.value.code == "client.owner-key"


def test_the_default_path_follows_the_xdg_specification() -> None:
    home = Path("/home/ann")
    assert default_policy_file({}, home) == home / ".config/sealserve/policy.toml"
    assert default_policy_file({"XDG_CONFIG_HOME": "/etc/ann"}, home) == Path("/etc/ann/sealserve/policy.toml")
    assert default_policy_file({"XDG_CONFIG_HOME": "relative"}, home) == home / ".config/sealserve/policy.toml"
