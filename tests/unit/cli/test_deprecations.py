import warnings

import pytest

from sealserve.cli import deprecations
from sealserve.deprecation import DeprecatedKeyWarning


def warn_twice() -> None:
    """Warn about keys twice, as a command that reads a file twice does, and let a library warn."""
    with deprecations.shown_once():
        for _ in range(2):
            warnings.warn("x.toml has keys with deprecated names.", DeprecatedKeyWarning, stacklevel=1)
        warnings.warn("of a library", UserWarning, stacklevel=1)


def test_a_warning_about_keys_is_printed_once_and_others_go_where_they_went(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.warns(UserWarning, match="of a library"):
        warn_twice()
    assert capsys.readouterr().err == "warning: x.toml has keys with deprecated names.\n"
