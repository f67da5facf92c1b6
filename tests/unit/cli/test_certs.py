import shutil
from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import make_site


def test_certificates_are_made_shown_and_renewed(cli: CommandLine) -> None:
    assert cli.ok("certs", "show") == (
        "The workspace has no certificates yet. Create them: `sealserve certs two-way`.\n"
    )
    assert cli.json("certs", "show") == []
    lines = cli.ok("certs", "two-way").splitlines()
    assert lines[0].split() == ["FOR", "NAMES", "EXPIRES", "(UTC)", "DAYS", "LEFT"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "broker authority", "service authority", "users authority", "issuing authority", "broker", "user"
    ]  # fmt: skip
    shown = {row["role"]: row for row in cli.json("certs", "show")}
    assert shown["broker"]["names"] == ["attestation.service.com", "127.0.0.1"]
    assert shown["user"]["file"].endswith("user/client.pem")
    assert set(shown["user"]) == {"role", "file", "subject", "names", "not_after", "fingerprint"}
    renewed = {row["role"]: row for row in cli.json("certs", "renew")}
    assert renewed["user"]["fingerprint"] != shown["user"]["fingerprint"]
    assert renewed["users authority"] == shown["users authority"]


def test_a_second_time_is_refused(cli: CommandLine) -> None:
    cli.ok("certs", "two-way")
    error = cli.error("certs", "two-way")
    assert (error["code"], error["status"]) == ("file.exists", 2)
    assert "certs renew" in error["hint"]


def test_the_mode_must_be_the_deployments(cli: CommandLine, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = cli.error("certs", "one-way")
    assert error["code"] == "certs.tls-mode"
    assert error["message"] == (
        "The certificates do not fit the deployment: expected service.tls = 'one-way' in sealserve.toml, got 'two-way'."
    )
    one_way = CommandLine(capsys, make_site(tmp_path / "one-way", service={"tls": "one-way"}).directory)
    assert "user" not in [row["role"] for row in one_way.json("certs", "one-way")]


def test_nothing_to_renew(cli: CommandLine) -> None:
    error = cli.error("certs", "renew")
    assert (error["code"], error["status"]) == ("authority.missing", 2)


def test_a_typing_error_in_the_file_is_named(cli: CommandLine) -> None:
    file = cli.directory / "sealserve.toml"
    file.write_text(file.read_text().replace("client_name", "cleint_name"))
    error = cli.error("certs", "two-way")
    assert (error["code"], error["status"]) == ("deployment.unknown-key", 2)
    assert "'service.cleint_name'" in error["message"]
    assert error["hint"] == "Did you mean 'service.client_name'?"


def test_the_hint_for_a_lost_certificate_works(cli: CommandLine) -> None:
    first = cli.error("predict")
    assert first["code"] == "certificate.missing"
    assert "run `sealserve certs two-way`" in first["hint"]
    cli.ok("certs", "two-way")
    user = cli.directory / ".sealserve/user"
    for lost in ("service-ca.pem", "client.key", "client.pem"):
        (user / lost).unlink()
        error = cli.error("predict", "--timeout", "0.2")
        assert (error["code"], error["hint"]) == (
            "certificate.missing", "Run `sealserve certs renew` to issue the certificate again."
        )  # fmt: skip
        cli.ok("certs", "renew")
        assert (user / lost).is_file()
    shutil.rmtree(user)
    cli.ok("certs", "renew")
    assert (user / "client.key").is_file()
    other = cli.error("predict", "--cert", "no.pem", "--key", "no.key")
    assert other["hint"] == "Check the paths of --cert and --key."


def test_the_issuing_authority_is_shown_and_rotated(cli: CommandLine) -> None:
    source = cli.directory / "half-plus-two"
    make_site(cli.directory, source=source, server={"dangerous_owner_tls_key": True})
    cli.ok("certs", "two-way")
    error = cli.error("certs", "rotate-issuing")
    assert (error["code"], error["status"]) == ("certs.not-attested", 2)
    make_site(cli.directory, source=source)
    rotated = {row["role"]: row for row in cli.json("certs", "rotate-issuing")}
    assert rotated["issuing authority"]["names"] == ["grpc.tf-serving.service.com"]
    again = {row["role"]: row for row in cli.json("certs", "rotate-issuing", "--compromised")}
    assert again["issuing authority"]["fingerprint"] != rotated["issuing authority"]["fingerprint"]
    assert again["service authority"] == rotated["service authority"]
    assert "issuing authority" in cli.ok("certs", "show")


def test_the_certificate_of_the_services_authority_is_renewed(cli: CommandLine) -> None:
    assert cli.error("certs", "renew-service-ca")["code"] == "authority.missing"
    before = {row["role"]: row for row in cli.json("certs", "two-way")}
    file = cli.directory / ".sealserve/user/service-ca.pem"
    trusted = file.read_bytes()
    done = cli("certs", "renew-service-ca")
    assert done.status == 0, done.err
    assert f"Next: send {file} to the users, then run `sealserve up`.\n" in done.err
    after = {row["role"]: row for row in cli.json("certs", "show")}
    assert file.read_bytes() != trusted
    changed = {role for role, row in after.items() if row["fingerprint"] != before[role]["fingerprint"]}
    assert changed == {"service authority"}
