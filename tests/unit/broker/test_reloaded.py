import logging
from pathlib import Path

import pytest

from sealserve.broker.codes import BrokerCode
from sealserve.broker.reloaded import Reloaded, version_of


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Source:
    """A value in a file, which a test can make invalid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loads = 0
        self.error: Exception | None = None

    def __call__(self) -> str:
        self.loads += 1
        if self.error is not None:
            raise self.error
        return self.path.read_text()


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "file").write_text("first")
    return Source(tmp_path / "file")


def replace(path: Path, text: str) -> None:
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)


def test_the_value_is_loaded_again_when_its_file_is_replaced(source: Source) -> None:
    value = Reloaded(source, what="value", files=[source.path])
    value.poll()
    assert (value.value, source.loads) == ("first", 1)
    replace(source.path, "second")
    value.poll()
    assert value.value == "first"  # a second file of the value may still be missing
    value.poll()
    value.poll()
    assert (value.value, source.loads) == ("second", 2)


def test_a_file_that_still_changes_is_not_read(source: Source) -> None:
    value = Reloaded(source, what="value", files=[source.path])
    for text in ("a", "bb", "ccc"):
        replace(source.path, text)
        value.poll()
    assert (value.value, source.loads) == ("first", 1)
    value.poll()
    assert (value.value, source.loads) == ("ccc", 2)


def test_a_link_to_another_file_is_a_change(source: Source, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(source.path)
    before = version_of([link, tmp_path / "missing"])
    (tmp_path / "new").write_text("first")
    (tmp_path / "switch").symlink_to(tmp_path / "new")
    (tmp_path / "switch").replace(link)
    assert version_of([link, tmp_path / "missing"]) != before
    assert before[1] is None


def test_a_failed_load_keeps_the_former_value_and_is_repeated_once_a_minute(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    value = Reloaded(source, what="value", files=[source.path], clock=clock)
    source.error = BrokerCode.CERTIFICATE_UNUSABLE.error("The chain is broken.")
    replace(source.path, "second")
    value.poll()
    value.poll()
    value.poll()
    assert (value.value, source.loads, value.problem) == ("first", 2, source.error)
    assert "cannot reload the value" in caplog.text
    assert "[broker.certificate-unusable] The chain is broken." in caplog.text
    caplog.clear()
    clock.seconds = 61  # the same error is not logged again, another error is
    value.poll()
    assert (source.loads, caplog.text) == (3, "")
    source.error = OSError("no such device")
    clock.seconds = 122
    value.poll()
    assert "no such device" in caplog.text
    source.error = None
    clock.seconds = 183
    with caplog.at_level(logging.INFO):
        value.poll()
    assert (value.value, value.problem) == ("second", None)
    assert "reloaded the value" in caplog.text
    clock.seconds = 1000
    value.poll()
    assert source.loads == 5


def test_an_unexpected_error_shows_no_value(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    value = Reloaded(source, what="value", files=[source.path])
    source.error = ValueError("secret")
    assert not value.reload()
    assert value.value == "first"
    assert (
        "cannot reload the value, so the broker continues with the former one: [ValueError] ValueError" in caplog.text
    )


def test_the_first_load_may_fail(source: Source) -> None:
    source.error = OSError("away")
    with pytest.raises(OSError, match="away"):
        Reloaded(source, what="value", files=[source.path])


def test_a_request_loads_only_what_has_changed(source: Source) -> None:
    value = Reloaded(source, what="value", files=[source.path])
    assert not value.replaced(value.value)
    assert source.loads == 1
    replace(source.path, "second")
    former = value.value
    assert value.replaced(former)
    assert value.replaced(former)  # another request that used the former value does not load it again
    assert (value.value, source.loads) == ("second", 2)
    source.error = OSError("away")
    source.path.unlink()
    assert not value.replaced(value.value)
    assert not value.replaced(value.value)
    assert source.loads == 3
