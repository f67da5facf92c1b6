import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.cli.demo.exposure import Exposure, Finding, files_under

SECRET = random.Random(1).randbytes(5000)  # noqa: S311  # test data
NOISE = random.Random(2).randbytes(40_000)  # noqa: S311  # test data
PATH = Path("file")


@given(start=st.integers(0, len(SECRET) - 16), at=st.integers(0, len(NOISE)))
def test_every_window_is_found_at_every_place(start: int, at: int) -> None:
    window = SECRET[start : start + 16]
    content = NOISE[:at] + window + NOISE[at:]
    finding = Exposure([("model", SECRET)]).search_bytes(content, PATH)
    assert finding is not None
    assert content[finding.offset : finding.offset + 16] in SECRET
    assert at - 16 < finding.offset <= at  # a byte or two of the noise before it may fit by chance
    assert finding.secret == "model"


def test_a_window_over_the_edge_of_a_chunk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.cli.demo.exposure._CHUNK", 64)
    for at in range(40, 90):
        content = NOISE[:at] + SECRET[333:349] + NOISE[at:200]
        assert Exposure([("model", SECRET)]).search_bytes(content, PATH) is not None, at


def test_noise_and_shorter_runs_are_not_found() -> None:
    search = Exposure([("model", SECRET)])
    assert search.search_bytes(NOISE, PATH) is None
    assert search.search_bytes(NOISE[:50] + SECRET[100:115] + NOISE[50:], PATH) is None


def test_runs_of_few_values_do_not_count() -> None:
    secret = bytes(200) + b"\x01\x02" * 50
    assert Exposure([("model", secret)]).search_bytes(bytes(100) + b"\x01\x02" * 30, PATH) is None


def test_a_window_with_an_aligned_run_of_zeros_counts() -> None:
    secret = b"abcdefgh" + bytes(8) + b"ijkl" + bytes(12)
    search = Exposure([("key", secret)])
    assert search.search_bytes(b"xyz" + secret[:16] + b"xyz", PATH) is not None
    assert search.search_bytes(b"xyz" + secret[8:], PATH) is None


def test_public_names_do_not_count() -> None:
    secret = b"graph of models/resnet50-v15-fp32/1/saved_model.pb" + SECRET
    search = Exposure([("model", secret)], public=[b"models/resnet50-v15-fp32/1/saved_model.pb"])
    assert search.search_bytes(b"log: opened=models/resnet50-v15-fp32/1/saved_model.pb", PATH) is None
    assert search.search_bytes(b"log: graph of models/resnet50", PATH) is not None


def test_what_stands_around_a_place_does_not_count() -> None:
    secret = b'{"asset": "/home/alice/models/vocabulary.txt", "size": 1}' + SECRET
    search = Exposure([("model", secret)], places=[b"/home/alice/models", b"/home/alice", b"/home"])
    for content in (
        b'{"log": "/home/alice/models/.sealserve"}',
        b'x"asset": "/home/alice/other"',
        b"/home/alice/models/v",
    ):
        assert search.search_bytes(content, PATH) is None
    assert search.search_bytes(b'"/home/alice/models/vocabulary.txt", "size', PATH) is not None
    assert search.search_bytes(b'{"log": "/home/alice/models/.sealserve"}' + SECRET[:64], PATH) is not None
    window = secret[3:19]  # a window that is ignored at one position is still found at another position
    assert search.search_bytes(b'set": "/home/alice/x ' + window[:16] + b" " + SECRET[8:40], PATH) is not None


def test_a_place_over_the_end_of_a_file_is_no_fault() -> None:
    secret = b"prefix /srv/workspace suffix and more"
    search = Exposure([("model", secret)], places=[b"/srv/workspace"])
    assert search.search_bytes(b"prefix /srv/workspace", PATH) is None
    assert search.search_bytes(b"/srv/workspace suffix", PATH) is None


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        Exposure([("key", b"short")])


def test_the_finding_names_the_file_and_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "clean").write_bytes(NOISE)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "dirty").write_bytes(NOISE + SECRET[:100])
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "dirty")
    findings = Exposure([("model", SECRET)]).search([tmp_path])
    assert [finding.path for finding in findings] == [tmp_path / "folder" / "dirty"]
    assert list(files_under([tmp_path / "clean"])) == [tmp_path / "clean"]
    assert repr(SECRET[:4])[2:-1] not in repr(findings)


@pytest.mark.parametrize("many", [0, 10_000])
def test_a_window_is_found_wherever_its_word_stands_several_times(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word of the window is at several places of two secrets, and the window itself only at the last one."""
    monkeypatch.setattr("sealserve.cli.demo.exposure._MANY", many)
    word = SECRET[:8]
    secrets = [("key", SECRET[64:80] + word), ("model", (word + NOISE[:8]) * 20 + word + SECRET[200:240])]
    search = Exposure(secrets)
    for before in range(9):
        start = 20 * 16 - before
        window = secrets[1][1][start : start + 16]
        finding = search.search_bytes(b"\xff\xfe" + window + b"\xff\xfe", PATH)
        assert finding is not None
        assert finding.secret == "model"
    assert search.search_bytes(SECRET[64:80] + bytes(20), PATH) == Finding(secret="key", path=PATH, offset=0)
    assert search.search_bytes(NOISE[100:108] + word + NOISE[200:220], PATH) is None


def test_a_window_over_two_secrets_is_none() -> None:
    search = Exposure([("one", SECRET[:24]), ("two", SECRET[24:48])])
    assert search.search_bytes(SECRET[16:32], PATH) is None
    assert search.search_bytes(SECRET[8:40], PATH) is not None


def test_a_file_with_two_names_is_searched_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(SECRET)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").write_bytes(NOISE)
    done: list[int] = []
    findings = Exposure([("model", SECRET)]).search([tmp_path], progress=done.append)
    assert [finding.path.name for finding in findings] == ["a"]
    assert done == [len(SECRET), len(NOISE)]
