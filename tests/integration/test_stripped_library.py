"""The server's images strip TensorFlow's libraries: the stripped libraries load, and compute the same bits."""

import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from sealserve.serving.runtime.protos import tensorflow_folder

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]

RECIPES = ("server-gramine.Dockerfile", "server-simulated.Dockerfile")

ANSWER = """
import sys
from pathlib import Path
from sealserve.serving.runtime.libtensorflow import library
from sealserve.serving.runtime.protos import TensorProto, tensorflow_folder
from sealserve.serving.runtime.session import Session
from sealserve.serving.runtime.tensors import Tensor

folder = Path(sys.argv[1])
session = Session.load(library(), folder, tags=["serve"], intra_op_threads=1, inter_op_threads=1, time_limit=300.0)
definition = session.signatures["serving_default"]
image = TensorProto(dtype=1, float_val=[(number * 37 % 101) / 101 for number in range(2 * 16 * 16 * 3)])
for size in (2, 16, 16, 3):
    image.tensor_shape.dim.add(size=size)
feed = (session.endpoint(definition.inputs["image"].name), Tensor.from_proto(library(), image.SerializeToString()))
names = sorted(definition.outputs)
answers = session.run([feed], [session.endpoint(definition.outputs[name].name) for name in names], timeout=None)
print(tensorflow_folder())
for name, answer in zip(names, answers, strict=True):
    print(name, answer.shape, answer.strings() if answer.dtype == 7 else answer.content().hex())
"""


def commands(recipe: str) -> list[str]:
    """Return what a recipe does to the folder ``tensorflow``, in its order."""
    text = (files("sealserve.containers") / "dockerfiles" / recipe).read_text()
    lines = (line.removeprefix(" && ").removesuffix(" \\") for line in text.splitlines())
    return [line for line in lines if line.startswith("find tensorflow ")]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with a convolution, a matrix product, a reduction and strings: several kernel libraries."""
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here

    class Model(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(tf.random.stateless_normal([3, 3, 3, 8], [1, 2]))
            self.dense = tf.Variable(tf.random.stateless_normal([8, 10], [3, 4]))

        @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32, name="image")])  # type: ignore[untyped-decorator]
        def answer(self, image: Any) -> dict[str, Any]:
            features = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(image, self.kernel, 1, "SAME")), [1, 2])
            scores = tf.nn.softmax(features @ self.dense)
            return {"scores": scores, "label": tf.strings.join(["class ", tf.strings.as_string(tf.argmax(scores, 1))])}

    folder = tmp_path / "model"
    built = Model()
    tf.saved_model.save(built, str(folder), signatures={"serving_default": built.answer})
    return folder


def test_both_recipes_strip_alike() -> None:
    first, second = (commands(recipe) for recipe in RECIPES)
    assert first == second
    assert any("strip" in line for line in first)


@pytest.mark.skipif(shutil.which("strip") is None, reason="strip is missing: apt-get install binutils")
def test_a_stripped_library_loads_and_answers_the_same(model: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    shutil.copytree(tensorflow_folder(), packages / "tensorflow", ignore=shutil.ignore_patterns("include", "python"))
    before = library_bytes(packages)
    for command in commands(RECIPES[0]):
        subprocess.run(["sh", "-c", command], cwd=packages, check=True)

    assert library_bytes(packages) < 0.8 * before
    whole, stripped = (answer(model, first_of_path=folder) for folder in (None, packages))
    assert (whole[0], stripped[0]) == (str(tensorflow_folder()), str(packages / "tensorflow"))
    assert whole[1:] == stripped[1:]
    assert len(whole) == 3


def library_bytes(packages: Path) -> int:
    """Return the size of TensorFlow's libraries below ``packages``."""
    return sum(path.stat().st_size for path in packages.rglob("libtensorflow_*.so*"))


def answer(model: Path, *, first_of_path: Path | None) -> list[str]:
    """Return what a process answers that finds TensorFlow in ``first_of_path``, or else where this one does."""
    environment = dict(os.environ) | ({"PYTHONPATH": str(first_of_path)} if first_of_path else {})
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(model)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
