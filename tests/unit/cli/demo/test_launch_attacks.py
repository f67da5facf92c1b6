import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.harness.errors import raises
from tests.harness.keys import signing_key
from tests.harness.workspaces import Site

from sealserve.cli.codes import CliCode
from sealserve.cli.demo import launch_attacks
from sealserve.cli.demo.attempts import Refusal
from sealserve.cli.demo.launch_attacks import LaunchAttacks
from sealserve.sealing.release import VerifiedRelease


@pytest.fixture
def host(site: Site, released: VerifiedRelease, monkeypatch: pytest.MonkeyPatch) -> LaunchAttacks:
    """A hostile host that attacks the largest file of the release's model."""
    monkeypatch.setattr("sealserve.broker.admin.log", lambda *_args, **_options: [])
    stage = SimpleNamespace(workspace=site.workspace, release=released.folder, built=released)
    return LaunchAttacks(stage)  # type: ignore[arg-type]  # the part of `Stage` that these attacks use


def ends(monkeypatch: pytest.MonkeyPatch, status: int, stderr: str) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, status, "", stderr)

    monkeypatch.setattr("subprocess.run", run)


def not_refused(host: LaunchAttacks) -> str:
    with raises(CliCode.DEMO_NOT_REFUSED) as caught:
        host._launch(Path("/nowhere"))
    assert caught.value.code == "demo.not-refused"
    return caught.value.message


def test_the_enclaves_own_refusal_is_its_last_error(host: LaunchAttacks, monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, 3, "error[a.b]: first\nINFO\nerror[sealed-file.tampered-node]: Node 3.\n  Hint.\n")
    refusal = host._launch(Path("/nowhere"))
    assert refusal == Refusal(code="sealed-file.tampered-node", message="Node 3.", by="the enclave")


def test_the_brokers_reason_is_in_its_log(host: LaunchAttacks, monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, 3, "error[attest.refused]: The broker refused.\n")
    row = SimpleNamespace(decision="refused", code="quote.debug", detail="a debug enclave")
    rows = [SimpleNamespace(entry=row, seq=1)]
    monkeypatch.setattr("sealserve.broker.admin.log", lambda *_args, **_options: rows)
    assert host._launch(Path("/nowhere")) == Refusal(code="quote.debug", message="a debug enclave", by="the broker")
    row.decision = "released"
    assert not_refused(host) == "The broker's decision is wrong: expected 'refused', got released."


def test_an_enclave_that_serves_was_not_refused(host: LaunchAttacks, monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, 0, "")
    not_with_a_code = "The attack was not refused with an error code: the enclave ended with status"
    assert not_refused(host) == f"{not_with_a_code} 0."
    ends(monkeypatch, 1, "Traceback (most recent call last):\n")
    assert not_refused(host) == f"{not_with_a_code} 1."

    def go_on(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr("subprocess.run", go_on)
    assert not_refused(host) == "The attack was not refused: the enclave still runs after 300 seconds."


def test_each_attack_changes_what_it_says_and_leaves_the_release_alone(
    host: LaunchAttacks, released: VerifiedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    before, model = files(released.folder), "models/half-plus-two/1/saved_model.pb"
    seen: list[dict[str, bytes]] = []
    answers = iter(["enclave.measurement", "policy.mr-enclave-unknown"])

    def launch(folder: Path) -> Refusal:
        seen.append(files(folder))
        return Refusal(code=next(answers, "x.y"), message="", by="the enclave")

    monkeypatch.setattr(host, "_launch", launch)
    monkeypatch.setattr(launch_attacks, "own_key", lambda: signing_key(1))
    host._change_argument()
    host._flip()
    host._swap()
    host._delete()
    host._debug()
    assert files(released.folder) == before
    assert not (released.folder.parent / "tampered").exists()
    changed = [{name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} for after in seen]
    manifest, signature = "enclave/replica-1.manifest.sgx", "enclave/replica-1.sig"
    assert changed == [{manifest}, {manifest, signature}, {model}, {model}, {model}, {signature}]
    flips = [one ^ other for one, other in zip(before[model], seen[2][model], strict=True) if one != other]
    assert flips == [1]
    assert seen[3][model] == before[host._other_file]
    assert model not in seen[4]


def test_the_key_check_detects_a_flipped_bit_in_a_file_of_one_node(host: LaunchAttacks) -> None:
    """A small model's content is in the node that is authenticated with the key alone."""
    assert host.attempts()[0].expected == "sealed-file.wrong-key"
    host._size = 3 * 4096
    assert host.attempts()[0].expected == "sealed-file.tampered-node"
    assert len(host.attempts()) == 7


def test_an_old_signature_must_not_pass(host: LaunchAttacks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_launch", lambda _folder: Refusal(code="x.y", message="", by="the enclave"))
    with raises(CliCode.DEMO_NOT_REFUSED, match=r"wrong reason: expected enclave\.measurement, got x\.y\."):
        host._change_argument()
