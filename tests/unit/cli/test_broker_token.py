import json
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.attestation_results import AUDIENCE, ISSUER, NONCE, NOW, make_result
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.attestation.result_token import sign_result
from sealserve.attestation.strict_encoding import encode_base64url
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import token_signer

AT = "2026-11-29T12:01:00"


@pytest.fixture
def files(site: Site, cli: CommandLine, tmp_path: Path) -> dict[str, Path]:
    """Tokens of the workspace's broker, and its JWK set."""
    Owner.create(site.workspace)
    signer = token_signer(site.workspace)
    (tmp_path / "genuine.jwt").write_text(sign_result(make_result(), signer) + "\n")
    (tmp_path / "simulated.jwt").write_text(sign_result(make_result(simulated=True), signer))
    (tmp_path / "keys.json").write_text(cli.ok("broker", "token", "keys"))
    return {name: tmp_path / name for name in ("genuine.jwt", "simulated.jwt", "keys.json")}


def options(files: dict[str, Path], *more: str) -> list[str | Path]:
    keys = files["keys.json"]
    return ["--jwks", keys, "--issuer", ISSUER, "--audience", AUDIENCE, "--at", AT, *more]


def test_a_result_is_verified_and_shown(cli: CommandLine, files: dict[str, Path]) -> None:
    nonce = ("--nonce", encode_base64url(NONCE))
    shown = cli.bare("broker", "token", "verify", files["genuine.jwt"], *options(files, *nonce))
    assert shown.status == 0, shown
    assert "affirming" in shown.out
    assert "01" * 32 in shown.out
    claims = cli.bare("broker", "token", "verify", files["genuine.jwt"], *options(files, *nonce), "--json").json
    assert claims == make_result().to_claims()


def test_a_simulated_result_needs_an_explicit_option(cli: CommandLine, files: dict[str, Path]) -> None:
    refused = cli.bare("broker", "token", "verify", files["simulated.jwt"], *options(files), "--json")
    assert (refused.status, refused.error["code"]) == (3, "token.simulated")
    shown = cli.bare(
        "broker", "token", "verify", files["simulated.jwt"], *options(files, "--dangerous-accept-simulated")
    )
    assert shown.status == 0
    assert "yes: nothing is protected" in shown.out
    assert "which protect nothing" in shown.err


def test_errors_have_codes_and_statuses(cli: CommandLine, files: dict[str, Path], tmp_path: Path) -> None:
    def error(token: Path, *arguments: str | Path) -> tuple[int, str]:
        result = cli.bare("broker", "token", "verify", token, *arguments, "--json")
        return result.status, result.error["code"]

    token, late = files["genuine.jwt"], (NOW + timedelta(hours=2)).replace(tzinfo=None).isoformat()
    assert error(token, *options(files, "--nonce", "AAAAAAAAAAA")) == (3, "token.nonce")
    assert error(token, *options(files, "--nonce", "?")) == (2, "usage.arguments")
    assert error(token, *options(files)[:-1], late) == (3, "token.expired")
    assert error(files["keys.json"], *options(files)) == (3, "token.form")
    assert error(token, "--jwks", token, *options(files)[2:]) == (2, "jwks.form")
    assert error(tmp_path / "missing", *options(files)) == (2, "input-file.missing")
    (tmp_path / "large").write_bytes(b"A" * 50_000)
    assert error(tmp_path / "large", *options(files)) == (2, "input-file.too-large")
    (tmp_path / "bytes").write_bytes(bytes(range(256)))
    assert error(tmp_path / "bytes", *options(files))[0] == 3


def test_keys_are_rotated(cli: CommandLine, files: dict[str, Path], site: Site) -> None:
    rotated = json.loads(cli.ok("broker", "token", "rotate", "--yes", "--json"))
    published = json.loads(cli.ok("broker", "token", "keys"))["keys"]
    assert [key["kid"] for key in published] == [rotated["key"], *rotated["former_keys"]]
    assert len(published) == 2
    # The former key still verifies, from the new set too.
    files["keys.json"].write_text(cli.ok("broker", "token", "keys"))
    assert cli.bare("broker", "token", "verify", files["genuine.jwt"], *options(files)).status == 0
    cli.ok("broker", "token", "rotate", "--yes", "--compromised")
    files["keys.json"].write_text(cli.ok("broker", "token", "keys"))
    refused = cli.bare("broker", "token", "verify", files["genuine.jwt"], *options(files), "--json")
    assert refused.error["code"] == "token.key-unknown"
    assert "BEGIN" not in site.workspace.owner.token_keys.read_text()


def test_a_workspace_without_the_key_is_not_changed_by_reading(cli: CommandLine, site: Site) -> None:
    refused = cli("broker", "token", "keys")
    assert (refused.status, refused.out) == (2, "")
    assert "error[owner-key.unreadable]" in refused.err
    assert "sealserve broker run" in refused.err
    assert not site.workspace.owner.token_signing_key.exists()


def test_the_token_of_a_simulated_enclave_needs_its_release(cli: CommandLine, site: Site) -> None:
    assert site.workspace.root.is_dir()
    assert cli.bare("enclave", "token", "--audience", "a b", "--directory", site.directory).status == 3
    status = cli.bare("enclave", "token", "--audience", "a", "--nonce", "?", "--directory", site.directory).status
    assert status == 2
