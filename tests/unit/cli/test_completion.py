from pathlib import Path

import pytest
from tests.harness.command_line import restored

from sealserve.cli.application import VERBS, run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sealserve ", set(VERBS)),
        ("sealserve clo", {"cloud"}),
        ("sealserve cloud ", {"list", "show", "qcnl"}),
        ("sealserve cloud show ", {"alibaba-g7t", "tencent-m6ce", "azure-dcsv3"}),
        ("sealserve init --preset a", {"alibaba-g7t", "azure-dcsv3"}),
        ("sealserve init --target ", {"local", "docker", "kubernetes"}),
        ("sealserve up --target do", {"docker"}),
        (
            "sealserve logs ",
            {"broker", "nginx", "pcs", "platform", "replica-0", "replica-1", "replica-7", "supervisor"},
        ),
        ("sealserve logs replica-", {"replica-0", "replica-1", "replica-7"}),
        ("sealserve up --release fl", {"flowers-1", "flowers-2"}),
        ("sealserve release verify --directory {} ", {"flowers-1", "flowers-2", "trees-1"}),
        ("sealserve release verify --directory /nowhere ", set()),
        ("sealserve doctor ", {"owner", "host", "user"}),
        ("sealserve doctor host --platform ", {"sgx", "simulated", "gramine-direct"}),
        ("sealserve doctor host --rep", {"--report"}),
        ("sealserve ver", {"verify"}),
        ("sealserve receipt ", {"verify"}),
        ("sealserve user trust --tcb ", {"strict", "cloud-smt"}),
        ("sealserve predict --require", {"--require-attested"}),
        ("sealserve proxy --rest", {"--rest-address"}),
    ],
)
def test_the_shell_completes(
    words: str,
    expected: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    for made in ("owner/releases/flowers-1", "owner/releases/flowers-2", "host/releases/flowers-1",
                 "host/releases/trees-1", "host/logs"):  # fmt: skip
        (tmp_path / ".sealserve" / made).mkdir(parents=True)
    (tmp_path / ".sealserve/host/logs/replica-7.log").touch()
    (tmp_path / "sealserve.toml").write_text("not TOML: completion does not read the file")
    monkeypatch.chdir(tmp_path)
    words = words.format(tmp_path)
    before, _, _ = words.rpartition(" ")
    monkeypatch.setenv("_SEALSERVE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(before.split())))
    with restored():
        assert run([]) == 0
    assert set(capsys.readouterr().out.split()) == expected
