from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sealserve.cli.generated_input import (
    WORDS,
    Guess,
    TensorInputError,
    Text,
    first_accepted,
    guesses,
    random_array,
)
from sealserve.cli.tensor_input import read_inputs
from sealserve.client.examples import serialize
from sealserve.client.predict import Signature, TensorSpec

SPECS = {
    "pixel": TensorSpec("uint8", (None,)),
    "weight": TensorSpec("float32", (None,)),
    "flag": TensorSpec("bool", (None,)),
    "image": TensorSpec("float32", (None, 2, None)),
    "count": TensorSpec("int64", ()),
    "words": TensorSpec("string", (None,)),
}


def signature(*names: str) -> Signature:
    return Signature(method="tensorflow/serving/predict", inputs={name: SPECS[name] for name in names}, outputs={})


def read(texts: list[str], *names: str, batch: int = 1, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    return dict(read_inputs(texts, signature(*names)).complete(batch=batch, seed=seed))


def test_what_is_not_named_is_random_and_repeatable() -> None:
    first = read([], "image", "count", batch=3, seed=1)
    assert first["image"].shape == (3, 2, 16)
    assert first["image"].dtype == np.float32
    assert first["count"].shape == ()
    assert first["count"].dtype == np.int64
    second, other = read(["image=random"], "image", batch=3, seed=1), read([], "image", batch=3, seed=2)
    np.testing.assert_array_equal(first["image"], second["image"])
    assert not np.array_equal(first["image"], other["image"])


def test_json_and_files(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.ones((1, 2, 1), np.float32))
    inputs = read([f"image=@{tmp_path / 'image.npy'}", "count=7", 'words=["a", "bc="]'], "image", "count", "words")
    assert inputs["image"].sum() == 2
    assert inputs["count"] == 7
    assert inputs["words"].tolist() == [b"a", b"bc="]


@pytest.mark.parametrize("text", ["image", "picture=1", "=1", ""])
def test_an_input_that_the_model_does_not_have(text: str) -> None:
    with pytest.raises(TensorInputError) as caught:
        read([text], "image", "count")
    assert caught.value.code == "predict.input"
    assert caught.value.message == (
        "An input is invalid: expected NAME=VALUE with the name of one of the model's inputs (image, count), got "
        f"{text!r}."
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("@nowhere.npy", "No such file"),
        ("[1, 2", "Expecting"),
        ('"seven"', "could not convert"),
        ("[[1], [2, 3]]", "different lengths"),
        ("{}", "must be"),
    ],
)
def test_a_value_that_cannot_be_read(value: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TensorInputError, match=f"The input 'image' cannot be read: .*{reason}") as caught:
        read([f"image={value}"], "image")
    assert caught.value.hint == (
        "Give @FILE (.npy, .npz, .json; any file for a string input), a JSON value, or `random`."
    )


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(TensorInputError, match="allow_pickle=False"):
        read([f"image=@{tmp_path / 'evil.npy'}"], "image")


@pytest.mark.parametrize("spec", [TensorSpec("float32", None), TensorSpec("resource", ())])
def test_nothing_random_fits(spec: TensorSpec) -> None:
    with pytest.raises(
        TensorInputError, match=f"A random value cannot be generated: its type is {spec.dtype}, its shape "
    ) as caught:
        random_array(spec, np.random.default_rng(0), 1)
    assert caught.value.hint == "Give a value: --input NAME=VALUE."


def test_a_picture_of_unknown_size_has_a_usual_one() -> None:
    for shape, expected in (((None, None, None, 3), (2, 224, 224, 3)), ((None, 3, None, None), (2, 3, 224, 224))):
        made = random_array(TensorSpec("float32", shape), np.random.default_rng(0), 2)
        assert made.shape == expected


@pytest.mark.parametrize(
    ("name", "method", "kind"),
    [
        ("text", "tensorflow/serving/predict", Text.WORDS),
        ("inputs", "tensorflow/serving/classify", Text.EXAMPLE),
        ("inputs", "tensorflow/serving/regress", Text.EXAMPLE),
        ("examples", "tensorflow/serving/predict", Text.EXAMPLE),
        ("image_bytes", "tensorflow/serving/predict", Text.PICTURE),
        ("b64_jpeg", "tensorflow/serving/predict", Text.PICTURE),
    ],
)
def test_a_string_is_what_its_name_says(name: str, method: str, kind: Text) -> None:
    made = random_array(TensorSpec("string", (None,)), np.random.default_rng(1), 3, name=name, method=method)
    assert (made.shape, made.dtype.kind) == ((3,), "O")
    first = made[0]
    if kind is Text.PICTURE:
        assert first.startswith(b"\x89PNG\r\n\x1a\n")
    elif kind is Text.EXAMPLE:
        assert first == serialize({})
    else:
        assert set(first.decode().split()) <= set(WORDS)


def test_other_guesses_follow_the_likeliest() -> None:
    found = guesses(signature("image", "words"))
    assert [guess.size for guess in found[:4]] == [16, 32, 128, 299]
    assert [guess.text for guess in found[4:]] == [Text.NUMBER, Text.PICTURE, Text.EXAMPLE]
    assert guesses(signature("weight", "count")) == [Guess()]

    def attempt(guess: Guess) -> Guess:
        if guess.text is not Text.NUMBER:
            raise ValueError(guess.size)
        return guess

    assert first_accepted(found, attempt, (ValueError,)).text is Text.NUMBER
    with pytest.raises(ValueError, match=r"^16$"):
        first_accepted(found[:3], attempt, (ValueError,))


def test_bytes_and_examples_in_json() -> None:
    value = '[{"b64": "/w=="}, {"age": 41, "weight": [1.5, 2], "city": ["Rome", {"b64": "/w=="}]}]'
    made = read([f"words={value}"], "words")["words"]
    assert made[0] == b"\xff"
    assert made[1] == serialize({"age": [41], "weight": [1.5, 2.0], "city": [b"Rome", b"\xff"]})
    assert read(['words={"b64": "aGk="}'], "words")["words"].tolist() == [b"hi"]


@pytest.mark.parametrize(
    "value", ['{"b64": "no base64"}', '{"b64": 1}', '[{"x": null}]', '[{"x": [1, "a"]}]', '[{"x": true}]',
              '[{"x": {"y": 1}}]', '[{"x": 99999999999999999999}]'],
)  # fmt: skip
def test_bytes_and_examples_that_are_none(value: str) -> None:
    with pytest.raises(TensorInputError, match="The input 'words' cannot be read: "):
        read([f"words={value}"], "words")


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64", "int8", "uint64", "bool"])
def test_random_values_have_the_models_type(dtype: str) -> None:
    made = random_array(TensorSpec(dtype, (None, 4)), np.random.default_rng(0), 2)
    assert (made.dtype.name, made.shape) == (dtype, (2, 4))
    assert ((made.real >= 0) & (made.real <= 1)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pixel", "[300]"),
        ("pixel", "[-1]"),
        ("count", "1.5"),
        ("count", "1e30"),
        ("count", "NaN"),
        ("count", "null"),
        ("count", '"7"'),
        ("weight", "[1, null]"),
        ("weight", "1e60"),
        ("weight", "1" + "0" * 400),
        ("flag", "[2]"),
        ("flag", '["false"]'),
        ("words", "[1]"),
        ("words", "[null]"),
        ("words", '[["a"], ["b", "c"]]'),
        ("words", '["\\ud800"]'),
        ("image", "[" * 100_000),
    ],
)
def test_a_value_that_is_not_the_models_is_refused_not_changed(name: str, value: str) -> None:
    with pytest.raises(TensorInputError, match=f"The input '{name}' cannot be read: "):
        read([f"{name}={value}"], name)


def test_values_that_are_the_models_are_kept_exactly() -> None:
    inputs = read(
        [f"count={2**63 - 1}", "pixel=[0, 255, 2.0]", "flag=[0, true]", 'words=["é", "a\\u0000"]', "weight=[Infinity]"],
        "count", "pixel", "flag", "words", "weight",
    )  # fmt: skip
    assert inputs["count"] == 2**63 - 1
    assert inputs["pixel"].tolist() == [0, 255, 2]
    assert inputs["flag"].tolist() == [False, True]
    assert inputs["words"].tolist() == ["é".encode(), b"a\x00"]
    assert np.isinf(inputs["weight"]).all()


def test_an_input_is_given_once() -> None:
    with pytest.raises(TensorInputError, match="The input 'count' was given twice"):
        read(["count=1", "count=2"], "count")


HEADER = b"\x93NUMPY\x01\x00"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 no archive",
        HEADER + len(b"{'''\n").to_bytes(2, "little") + b"{'''\n",
        HEADER + (5001).to_bytes(2, "little") + b"(" * 5000 + b"\n",
    ],
)
def test_a_file_that_is_no_array(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(TensorInputError, match="The input 'image' cannot be read: "):
        read([f"image=@{tmp_path / 'bad.npy'}"], "image")


def test_random_values_that_fit_no_request_take_no_memory() -> None:
    for shape, batch in (((None, 4), 2**61), ((2**40, 2**40), 1)):
        with pytest.raises(TensorInputError, match="is too large: expected at most") as caught:
            random_array(TensorSpec("uint8", shape), np.random.default_rng(0), batch)
        assert caught.value.hint == "Give a smaller --batch."


def test_an_input_that_is_missing_is_told() -> None:
    with pytest.raises(
        TensorInputError, match=r"^Inputs are missing: the signature needs .* no value was given for count, words"
    ) as caught:
        read(["image=random"], "image", "count", "words")
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("For a random value, use --input count=random.")
