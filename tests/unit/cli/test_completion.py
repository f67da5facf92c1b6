import pytest

from sealserve.cli.application import VERBS, run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sealserve ", set(VERBS)),
        ("sealserve clo", {"cloud"}),
        ("sealserve cloud ", {"list", "show", "qcnl"}),
        ("sealserve cloud show ", {"alibaba-g7t", "tencent-m6ce", "azure-dcsv3"}),
        ("sealserve init --preset a", {"alibaba-g7t", "azure-dcsv3"}),
        ("sealserve doctor ", {"owner", "host", "user"}),
        ("sealserve doctor host --platform ", {"sgx", "simulated"}),
        ("sealserve doctor host --rep", {"--report"}),
    ],
)
def test_the_shell_completes(
    words: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _, _ = words.rpartition(" ")
    monkeypatch.setenv("_SEALSERVE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(before.split())))
    assert run([]) == 0
    assert set(capsys.readouterr().out.split()) == expected
