from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.serving.codes import ServingCode
from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.libtensorflow import Library, TensorFlowError, library


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"no library")
    with raises(ServingCode.SERVER_TENSORFLOW_LIBRARY, match=r"lib.so cannot be loaded") as caught:
        Library(str(tmp_path / "lib.so"))
    assert (caught.value.code, caught.value.exit_status) == ("server.tensorflow-library", 4)


def test_a_library_of_something_else() -> None:
    with raises(ServingCode.SERVER_TENSORFLOW_LIBRARY, match=r"libc.so.6 cannot be loaded: .*TF_"):
        Library("libc.so.6")


def test_the_text_of_an_error_is_kept_apart() -> None:
    error = TensorFlowError(Status.INVALID_ARGUMENT, "indices[0] = 771177")
    assert str(error) == "INVALID_ARGUMENT"
    assert error.text == "indices[0] = 771177"


@pytest.mark.tensorflow
def test_the_library_is_loaded_once_and_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    assert library() is library()
    assert library().version.count(".") == 2
    with pytest.raises(AttributeError):
        _ = library().TF_Nonsense
    assert capfd.readouterr().err == ""
