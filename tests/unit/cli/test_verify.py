"""`verify`, `user trust`, `receipt verify`, and --require-attested, against an honest and hostile services."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from scripts.attested_example import REQUEST, RESPONSE, Example
from tests.harness.attested_service import NAME, AttestedService, Hostile
from tests.harness.command_line import CommandLine
from tests.unit.client.conftest import Behaviour
from tests.unit.client.conftest import Service as Handler

from sealserve.attested.receipt import sign_receipt
from sealserve.attested.release_statement import sign_statement
from sealserve.serving_interface import RECEIPT_HEADER


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SEALSERVE_POLICY", raising=False)
    monkeypatch.chdir(tmp_path)
    return CommandLine(capsys, tmp_path)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[AttestedService]:
    with AttestedService(tmp_path, rest=True, handlers=[Handler(Behaviour(instance="0" * 32))]) as found:
        yield found


def trust(cli: CommandLine, service: AttestedService, folder: Path) -> None:
    owner, root = folder / "owner.pub", folder / "root.pem"
    owner.write_bytes(service.example.owner.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    root.write_bytes(service.example.vendor.root.certificate.public_bytes(Encoding.PEM))
    assert cli.bare("user", "trust", owner, "--dangerous-simulated-root", root).status == 0


def error(cli: CommandLine, *arguments: str | Path) -> dict[str, object]:
    return cli.bare(*arguments, "--json").error


def test_the_simulated_root_may_be_pem_or_der(cli: CommandLine, service: AttestedService, tmp_path: Path) -> None:
    trust(cli, service, tmp_path)
    der, damaged = tmp_path / "root.der", tmp_path / "damaged.der"
    der.write_bytes(service.example.vendor.root.certificate.public_bytes(Encoding.DER))
    damaged.write_bytes(der.read_bytes()[:-1])

    def policy(root: Path, name: str) -> list[str | Path]:
        return [
            "user",
            "trust",
            tmp_path / "owner.pub",
            "--dangerous-simulated-root",
            root,
            "--policy",
            tmp_path / name,
        ]

    for root in (tmp_path / "root.pem", der):
        assert cli.bare(*policy(root, root.name + ".toml")).status == 0
    assert (tmp_path / "root.der.toml").read_bytes() == (tmp_path / "root.pem.toml").read_bytes()
    assert error(cli, *policy(damaged, "damaged.toml"))["code"] == "certificate.unreadable"
    assert not (tmp_path / "damaged.toml").exists()


def test_a_service_is_verified_and_its_bundle_again_later(
    cli: CommandLine, service: AttestedService, tmp_path: Path
) -> None:
    trust(cli, service, tmp_path)
    bundle = tmp_path / "evidence.json"
    live = cli.bare("verify", service.address, "--server-name", NAME, "--save", bundle, "--json")
    assert live.status == 0, live
    assert [step["step"] for step in live.json["steps"]] == [1, 2, 3, 4, 5, 6]
    assert live.json["simulated"] is True
    assert live.json["models"][0]["name"] == "half_plus_two"
    assert bundle.stat().st_size <= 64 * 1024
    rest = cli.bare("verify", service.rest_address, "--server-name", NAME)
    assert rest.status == 0, rest
    assert "All six steps hold for" in rest.out
    assert "Each request runs alone." in rest.out
    assert "No model may use operations that the model lint rejects." in rest.out
    assert "SIMULATED" in rest.err
    at = f"{service.example.now + timedelta(minutes=1):%Y-%m-%dT%H:%M:%S}"
    later = cli.bare("verify", bundle, "--at", at, "--json")
    assert later.status == 0, later
    assert later.json["keyset_sha256"] == live.json["keyset_sha256"]
    assert error(cli, "verify", service.address, "--server-name", NAME, "--save", bundle)["code"] == "file.exists"
    late = error(cli, "verify", bundle, "--at", "2036-01-01T00:00:00")
    assert (late["step"], late["code"]) == (1, "collateral.expired")


def test_exceptions_to_the_rules_for_models_are_shown_and_need_the_users_consent(
    cli: CommandLine, tmp_path: Path
) -> None:
    example = Example(tmp_path / "vendor", now=datetime.now(UTC).replace(microsecond=0))
    model = example.model.model_copy(update={"allowed_operations": ("PrintV2",)})
    statement = sign_statement(example.statement(models=(model,), shared_batches=True), example.owner)
    with AttestedService(tmp_path, example=example) as service:
        service.replica = replace(service.replica, answer=example.service(statement=statement).answer)
        trust(cli, service, tmp_path)
        policy = tmp_path / "config/sealserve/policy.toml"
        arguments = ("verify", service.address, "--server-name", NAME)
        strict = policy.read_text()
        for code, more in (
            ("evidence.shared-batches", ""),
            ("evidence.shared-batches", 'dangerous_operations = ["PrintV2"]\n'),
            ("evidence.allowed-operations", "dangerous_shared_batches = true\n"),
        ):
            policy.write_text(strict + more)
            failed = error(cli, *arguments)
            assert (failed["step"], failed["code"]) == (3, code)
            assert "run `sealserve user trust` with --dangerous-" in str(failed["hint"])
        policy.write_text(strict + 'dangerous_shared_batches = true\ndangerous_operations = ["PrintV2"]\n')
        accepted = cli.bare(*arguments)
        assert accepted.status == 0, accepted
        assert "Requests of several users can run in one batch" in accepted.out
        assert "with which they can keep or send an input: PrintV2." in accepted.out
        assert "accepts shared batches" in accepted.err
        assert "accepts operations with which a model can keep or send an input: PrintV2" in accepted.err
        found = cli.bare(*arguments, "--json").json
        assert (found["shared_batches"], found["models"][0]["allowed_operations"]) == (True, ["PrintV2"])


@pytest.mark.parametrize(
    ("hostile", "step", "code"),
    [
        (Hostile.RELAY, 6, "evidence.tls-key"),
        (Hostile.REPLAY, 5, "evidence.nonce-signature"),
        (Hostile.OTHER_KEYSET, 4, "evidence.keyset-binding"),
        (Hostile.NO_RESULT, 3, "evidence.no-result"),
        (Hostile.DEBUG, 2, "quote.debug"),
    ],
)
def test_a_failure_names_the_step_and_its_meaning(
    cli: CommandLine, tmp_path: Path, hostile: Hostile, step: int, code: str
) -> None:
    with AttestedService(tmp_path, hostile=hostile) as found:
        trust(cli, found, tmp_path)
        arguments = ("verify", found.address, "--server-name", NAME, "--save", tmp_path / "evidence.json")
        failed = error(cli, *arguments)
        assert (failed["step"], failed["code"]) == (step, code)
        assert str(failed["meaning"]) in str(failed["message"])
        text = cli.bare(*arguments)
        assert text.status == 3
        assert f"Step {step} of 6" in text.err
        assert not (tmp_path / "evidence.json").exists()


def test_intels_root_rejects_a_simulated_service(cli: CommandLine, service: AttestedService) -> None:
    key = service.example.owner.public_key().public_bytes_raw().hex()
    assert cli.bare("user", "trust", key.upper()).status == 0
    failed = error(cli, "verify", service.address, "--server-name", NAME)
    assert (failed["step"], failed["code"]) == (1, "evidence.simulated")


def test_a_pinned_release_rejects_other_releases(cli: CommandLine, service: AttestedService, tmp_path: Path) -> None:
    trust(cli, service, tmp_path)
    key = service.example.owner.public_key().public_bytes_raw().hex()
    policy = tmp_path / "config/sealserve/policy.toml"
    assert cli.bare("user", "trust", key, "--release", "0" * 64, "--tcb", "strict").status == 0
    assert policy.stat().st_mode & 0o777 == 0o600
    failed = error(cli, "verify", service.address, "--server-name", NAME)
    assert (failed["step"], failed["code"]) == (3, "evidence.release-not-pinned")
    assert cli.bare("user", "trust", key, "--release", service.example.release_id).status == 0
    assert policy.read_text().count(key) == 1
    assert cli.bare("verify", service.address, "--server-name", NAME).status == 0


def test_user_trust_warns_of_each_accepted_danger(cli: CommandLine, service: AttestedService, tmp_path: Path) -> None:
    key = service.example.owner.public_key().public_bytes_raw().hex()
    policy = tmp_path / "own.toml"
    assert error(cli, "user", "trust", key, "--dangerous-operation", "a b")["code"] == "user-policy.invalid"
    cli.bare("user", "trust", key, "--policy", policy, "--dangerous-operation", "PrintV2")
    cli.bare("user", "trust", "ab" * 32, "--policy", policy, "--release", "cd" * 32)
    ended = cli.bare("user", "trust", key, "--policy", policy, "--dangerous-shared-batches")
    assert ended.status == 0
    assert "It pins 2 owners. All other settings in it apply to each of them." in ended.out
    assert "It accepts only 1 pinned releases." in ended.out
    assert "can keep or send an input: PrintV2" in ended.err
    assert "accepts shared batches" in ended.err


def test_bad_input_has_an_error_with_a_hint(cli: CommandLine, service: AttestedService, tmp_path: Path) -> None:
    failed = error(cli, "verify", service.address, "--server-name", NAME)
    assert failed["code"] == "client.no-policy"
    assert "user trust" in str(failed["hint"])
    (tmp_path / "key.txt").write_text("no key")
    assert error(cli, "user", "trust", tmp_path / "key.txt")["code"] == "client.owner-key"
    assert error(cli, "user", "trust", "abc")["code"] == "input-file.missing"
    key = service.example.owner.public_key().public_bytes_raw().hex()
    assert error(cli, "user", "trust", key, "--tcb", "lax")["code"] == "user-policy.invalid"
    assert error(cli, "user", "trust", key, "--release", "abc")["code"] == "user-policy.invalid"
    assert not (tmp_path / "config/sealserve/policy.toml").exists()
    trust(cli, service, tmp_path)
    assert error(cli, "verify", service.address, "--at", "2026-12-01T00:00:00")["code"] == "client.options"
    for missing in ("no-such-file.json", "127.0.0.1"):
        failed = error(cli, "verify", missing)
        assert failed["code"] == "input-file.missing"
        assert "neither an address nor a file" in str(failed["message"])
        assert "HOST:PORT" in str(failed["hint"])
    for address in ("host:port", f"https://{service.address}"):
        assert error(cli, "verify", address)["code"] == "client.target"
    (tmp_path / "root.toml").write_text(f'version = 1\nowner_keys = ["{key}"]\ndangerous_simulated_root = "x"\n')
    failed = error(cli, "verify", service.address, "--policy", tmp_path / "root.toml")
    assert failed["message"] == (
        "The user's policy is invalid: dangerous_simulated_root: expected a certificate in PEM."
    )
    (tmp_path / "garbage.json").write_bytes(b"\x00" * 100)
    assert error(cli, "verify", tmp_path / "garbage.json")["code"] == "document.json"
    (tmp_path / "large.json").write_bytes(b"{" * 70_000)
    assert error(cli, "verify", tmp_path / "large.json")["code"] == "input-file.too-large"
    (tmp_path / "empty.toml").write_text("version = 1\n")
    assert error(cli, "verify", service.address, "--policy", tmp_path / "empty.toml")["code"] == "user-policy.empty"
    failed = error(cli, "verify")
    assert failed["code"] == "workspace.missing"
    assert "--address" not in str(failed["hint"])  # the address is an argument


def save_bundle(cli: CommandLine, service: AttestedService, folder: Path) -> Path:
    """Pin the owner's key, and save a bundle."""
    trust(cli, service, folder)
    bundle = folder / "evidence.json"
    assert cli.bare("verify", service.address, "--server-name", NAME, "--save", bundle).status == 0
    return bundle


def test_only_a_written_policy_is_announced_as_simulated(
    cli: CommandLine, service: AttestedService, tmp_path: Path
) -> None:
    trust(cli, service, tmp_path)
    announced = "accepts only simulated services"
    again = cli.bare("user", "trust", "ab" * 32)
    assert again.status == 0
    assert announced in again.err  # the root of the earlier command is still in the file
    failed = cli.bare("user", "trust", tmp_path / "owner.pub", "--dangerous-simulated-root", tmp_path / "owner.pub")
    assert failed.status == 2
    assert announced not in failed.err


@pytest.mark.parametrize(
    ("at", "code", "hint"),
    [
        ("2020-01-01T00:00:00", "collateral.not-yet-valid", "Check the clock of this machine."),
        ("2060-01-01T00:00:00", "collateral.expired", "sealserve verify --collateral-from URL"),
    ],
)
def test_hints_about_collateral_are_for_users(cli: CommandLine, tmp_path: Path, at: str, code: str, hint: str) -> None:
    with AttestedService(tmp_path) as service:
        save_bundle(cli, service, tmp_path)
    failed = error(cli, "verify", tmp_path / "evidence.json", "--at", at)
    assert failed["code"] == code
    assert hint in str(failed["hint"])
    assert "broker." not in str(failed["hint"])  # a user has no broker to configure


def test_a_wrong_source_of_collateral_names_the_option(
    cli: CommandLine, service: AttestedService, tmp_path: Path
) -> None:
    trust(cli, service, tmp_path)
    options = ("--server-name", NAME, "--collateral-from", "nonsense")
    failed = error(cli, "verify", service.address, *options)
    assert (failed["code"], failed["hint"]) == ("pcs.url", "Correct --collateral-from.")


def test_a_malformed_quote_fails_in_step_1_also_with_other_collateral(cli: CommandLine, tmp_path: Path) -> None:
    with AttestedService(tmp_path) as service:
        bundle = save_bundle(cli, service, tmp_path)
    document = json.loads(bundle.read_text())
    document["evidence"]["quote"] = document["evidence"]["quote"][:8]
    bundle.write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))
    failed = error(cli, "verify", bundle, "--collateral-from", "http://127.0.0.1:1")
    assert (failed["step"], failed["code"]) == (1, "quote.truncated")


def test_an_address_is_never_read_as_a_file(cli: CommandLine, service: AttestedService, tmp_path: Path) -> None:
    trust(cli, service, tmp_path)
    assert cli.bare("verify", service.address, "--server-name", NAME, "--save", tmp_path / "127.0.0.1:1").status == 0
    assert error(cli, "verify", "127.0.0.1:1", "--timeout", "1")["code"] == "client.unreachable"


def options(service: AttestedService, folder: Path) -> list[str | Path]:
    ca = folder / "ca.pem"
    ca.write_bytes(service.ca)
    return ["--address", service.address, "--server-name", NAME, "--ca", ca, "--model", "toy", "--require-attested"]


@pytest.mark.parametrize("verb", ["predict", "bench"])
def test_predict_and_bench_verify_before_the_first_input(
    cli: CommandLine, service: AttestedService, tmp_path: Path, verb: str
) -> None:
    trust(cli, service, tmp_path)
    answered = cli.bare(verb, *options(service, tmp_path), "--json")
    assert answered.status == 0, answered
    assert service.observed.evidence == 1


@pytest.mark.parametrize("verb", ["predict", "bench"])
@pytest.mark.parametrize("hostile", [Hostile.RELAY, Hostile.NO_EVIDENCE, Hostile.OTHER_RELEASE])
def test_predict_and_bench_send_nothing_to_a_hostile_service(
    cli: CommandLine, tmp_path: Path, verb: str, hostile: Hostile
) -> None:
    behaviour = Behaviour()
    with AttestedService(tmp_path, hostile=hostile, handlers=[Handler(behaviour)]) as found:
        trust(cli, found, tmp_path)
        failed = cli.bare(verb, *options(found, tmp_path), "--json")
        assert failed.status == 3, failed
        assert not behaviour.requests
        assert not found.observed.inputs


def test_a_policy_without_require_attested_is_an_error(
    cli: CommandLine, service: AttestedService, tmp_path: Path
) -> None:
    trust(cli, service, tmp_path)
    given = options(service, tmp_path)[:-1]
    assert error(cli, "predict", *given, "--policy", tmp_path / "config/sealserve/policy.toml")["code"] == (
        "client.options"
    )


def test_receipts_are_verified_offline(cli: CommandLine, service: AttestedService, tmp_path: Path) -> None:
    trust(cli, service, tmp_path)
    for name, content in (("request", REQUEST), ("response", RESPONSE)):
        (tmp_path / name).write_bytes(content)
    signed = sign_receipt(service.example.receipt_claims(sequence=7), service.example.identity)
    (tmp_path / "receipt.jws").write_text(f"{signed}\n")
    cli.bare("verify", service.address, "--server-name", NAME, "--save", tmp_path / "evidence.json")
    arguments: list[str | Path] = ["receipt", "verify", tmp_path / "receipt.jws", "--request", tmp_path / "request",
                 "--response", tmp_path / "response", "--evidence", tmp_path / "evidence.json"]  # fmt: skip
    assert "The receipt is valid" in cli.bare(*arguments).out
    found = json.loads(cli.bare(*arguments, "--json").out)
    assert (found["sequence"], found["model_stated_by_owner"]) == (7, True)
    (tmp_path / "response").write_bytes(RESPONSE + b" ")
    assert error(cli, *arguments)["code"] == "receipt.response"
    (tmp_path / "request").write_bytes(b"")
    assert error(cli, *arguments)["code"] == "receipt.request"
    (tmp_path / "receipt.jws").write_bytes(b"\xff\xff")
    assert error(cli, *arguments)["code"] == "receipt.form"


def test_collateral_of_the_users_own_source_replaces_the_services(
    cli: CommandLine, service: AttestedService, tmp_path: Path
) -> None:
    trust(cli, service, tmp_path)
    failed = error(cli, "verify", service.address, "--server-name", NAME, "--collateral-from", "http://127.0.0.1:1")
    assert failed["code"] == "pcs.unreachable"


class WithReceipts(grpc.GenericRpcHandler):
    """Adds a receipt to each answer of another handler. ``forged`` signs for another response."""

    def __init__(self, inner: Handler, example: Example, *, forged: bool = False) -> None:
        self._inner, self._example, self._forged = inner, example, forged

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        found = self._inner.service(handler_call_details)
        if found is None:
            return None

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            response: bytes = found.response_serializer(found.unary_unary(found.request_deserializer(request), context))
            if any(key == RECEIPT_HEADER for key, _ in context.invocation_metadata()):
                claims = self._example.receipt_claims(
                    request_sha256=hashlib.sha256(request).hexdigest(),
                    response_sha256=hashlib.sha256(b"" if self._forged else response).hexdigest(),
                )
                context.set_trailing_metadata(((RECEIPT_HEADER, sign_receipt(claims, self._example.identity)),))
            return response

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize("forged", [False, True])
def test_predict_keeps_a_valid_receipt(cli: CommandLine, tmp_path: Path, forged: bool) -> None:
    example = Example(tmp_path / "vendor", now=datetime.now(UTC).replace(microsecond=0))
    handler = WithReceipts(Handler(Behaviour()), example, forged=forged)
    kept = tmp_path / "answer"
    with AttestedService(tmp_path, example=example, handlers=[handler]) as found:
        trust(cli, found, tmp_path)
        given = options(found, tmp_path)
        if forged:
            assert error(cli, "predict", *given, "--save-receipt", kept)["code"] == "receipt.response"
            assert not kept.exists()
            return
        answered = cli.bare("predict", *given, "--save-receipt", kept, "--json")
        assert answered.status == 0, answered
        assert answered.json["receipt"] == str(kept)
        assert error(cli, "predict", *given, "--save-receipt", kept)["code"] == "file.exists"
        assert error(cli, "predict", *given[:-1], "--save-receipt", kept)["code"] == "client.options"
    assert kept.stat().st_mode & 0o777 == 0o700
    checked = cli.bare("receipt", "verify", kept / "receipt.jws", "--request", kept / "request.bin",
                       "--response", kept / "response.bin", "--evidence", kept / "evidence.json")  # fmt: skip
    assert checked.status == 0, checked
    assert "The receipt is valid" in checked.out
