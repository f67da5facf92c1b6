import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.errors import VerificationError
from sealserve.sealing.codec import seal_bytes, seal_file, unseal_bytes, unseal_file
from sealserve.sealing.format_version import FormatVersion
from sealserve.secret import SecretBytes

pytestmark = pytest.mark.usefixtures("each_cipher")

EDGES = [0, 1, 3071, 3072, 3073, 7168, 7169, 396288, 396289]
SIZES = st.sampled_from(EDGES) | st.integers(0, 20_000)
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=100)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=75, deadline=None)
@given(size=SIZES, seed=st.binary(min_size=1, max_size=16), version=st.sampled_from(FormatVersion), path=PATHS)
def test_what_is_sealed_comes_back(folder: Path, size: int, seed: bytes, version: FormatVersion, path: str) -> None:
    content = (seed * (size // len(seed) + 1))[:size]
    key = SecretBytes.random(16)
    (folder / "plain").write_bytes(content)
    seal_file(
        folder / "plain", folder / "sealed", key=key, embedded_path=path, version=version, overwrite=True
    )  # fmt: skip
    result = unseal_file(folder / "sealed", folder / "back", key=key, embedded_path=path, overwrite=True)
    assert (folder / "back").read_bytes() == content
    assert result.embedded_path == path


@settings(max_examples=120, deadline=None)  # test_tampering tests each byte of small files
@given(data=st.data(), size=st.integers(0, 8000), version=st.sampled_from(FormatVersion))
def test_a_flipped_bit_is_refused_or_without_effect(
    folder: Path, data: st.DataObject, size: int, version: FormatVersion
) -> None:
    key, content = SecretBytes.random(16), b"x" * size
    seal_bytes(content, folder / "sealed", key=key, embedded_path="p", version=version, overwrite=True)
    raw = bytearray((folder / "sealed").read_bytes())
    offset = data.draw(st.integers(0, len(raw) - 1))
    raw[offset] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "sealed").write_bytes(raw)
    end = {FormatVersion.V1_0: 3942, FormatVersion.V2_0: 3943}[version]
    unauthenticated = offset == 9 or end <= offset < 4096 or (offset == 58 and version is FormatVersion.V2_0)
    try:
        found = unseal_bytes(folder / "sealed", key=key, embedded_path="p").reveal()
    except VerificationError as error:
        assert error.code.startswith("sealed-file.")  # noqa: PT017  # an error is only one of the valid outcomes
        assert not unauthenticated
    else:
        assert unauthenticated
        assert found == content


@settings(max_examples=80, deadline=None)
@given(data=st.data(), size=st.integers(0, 8000))
def test_every_truncation_is_refused(folder: Path, data: st.DataObject, size: int) -> None:
    key = SecretBytes.random(16)
    seal_bytes(bytes(size), folder / "sealed", key=key, embedded_path="p", overwrite=True)
    raw = (folder / "sealed").read_bytes()
    (folder / "sealed").write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(VerificationError) as refused:
        unseal_bytes(folder / "sealed", key=key, embedded_path="p")
    assert refused.value.code == "sealed-file.truncated"


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=5000))
def test_any_bytes_are_refused_with_a_typed_error(folder: Path, raw: bytes) -> None:
    (folder / "sealed").write_bytes(raw)
    with pytest.raises(VerificationError):
        unseal_bytes(folder / "sealed", key=SecretBytes(bytes(16)), embedded_path=None)
