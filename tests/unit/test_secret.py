import pickle

import pytest

from sealserve.secret import SecretBytes

VALUE = b"sixteen bytes 16"


def test_never_shows_its_value() -> None:
    secret = SecretBytes(VALUE)
    for text in (repr(secret), str(secret), f"{secret}", repr([secret])):
        assert "sixteen" not in text
        assert VALUE.hex() not in text
    assert repr(secret) == "SecretBytes(<16 bytes>)"


def test_cannot_be_pickled_or_hashed() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(SecretBytes(VALUE))
    with pytest.raises(TypeError):
        hash(SecretBytes(VALUE))


def test_equality() -> None:
    assert SecretBytes(VALUE) == SecretBytes(VALUE)
    assert SecretBytes(VALUE) != SecretBytes(b"another value 16")
    assert SecretBytes(VALUE) != VALUE


def test_wipe_empties_it_and_leaves_the_callers_buffer() -> None:
    buffer = bytearray(VALUE)
    with SecretBytes(buffer) as secret:
        assert secret.reveal() == VALUE
    assert len(secret) == 0
    assert buffer == VALUE


def test_random_has_the_length_and_differs() -> None:
    assert len(SecretBytes.random(16)) == 16
    assert SecretBytes.random(16) != SecretBytes.random(16)
