import pytest
from tests.harness.missing import missing


def test_what_is_missing_skips_a_test_but_not_where_nothing_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALSERVE_TESTS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no engine"):
        missing("no engine")
    monkeypatch.setenv("SEALSERVE_TESTS", "all")
    with pytest.raises(pytest.fail.Exception, match="and yet: no engine"):
        missing("no engine")
