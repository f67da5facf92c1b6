from pathlib import Path

import pytest

from sealserve.serving.base_path import BasePathSchemeError, read_base_path
from sealserve.serving.command_line.options import parse
from sealserve.serving.request_errors import Status


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/m", "/m"),
        ("m/n", "m/n"),
        ("s3:/m", "s3:/m"),
        ("/a/s3://b", "/a/s3:/b"),
        ("file:///m/n", "/m/n"),
        ("FILE://localhost/m", "/m"),
    ],
)
def test_paths_and_uris_of_this_machine(text: str, path: str) -> None:
    assert read_base_path(text) == Path(path)


@pytest.mark.parametrize("text", ["s3://b/m", "gs://b/m", "hdfs://h:1/m", "ram://m", "S3://b", "https://h/m"])
def test_a_uri_with_another_scheme_is_refused_at_once(text: str) -> None:
    with pytest.raises(BasePathSchemeError, match=f"^The base path {text} cannot be used: .* got the scheme") as caught:
        parse([f"--model_base_path={text}", "--dangerous_plaintext"])
    assert caught.value.code == "servable.base-path-scheme"
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("text", ["file://models/m", "file://", "file://localhost"])
def test_a_file_uri_of_another_host_is_refused(text: str) -> None:
    with pytest.raises(BasePathSchemeError, match="expected file:///PATH, got the host"):
        read_base_path(text)
