"""The lint rejects hostile models. Most of them are also served, to show that TensorFlow does what the lint forbids."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.attack_models import ATTACKS, KEEPING, Attack, Parts, Surroundings, write

from sealserve.errors import InputError
from sealserve.model.lint import RefusedOperationError, lint
from sealserve.model.operations import class_of
from sealserve.serving.runtime.libtensorflow import TensorFlowError, library
from sealserve.serving.runtime.session import Session
from sealserve.serving.runtime.tensors import Tensor

pytestmark = pytest.mark.tensorflow

SECRET = "SECRET"  # no password
EFFECTIVE = sorted(name for name, attack in ATTACKS.items() if attack.reveals or attack.writes)


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "ssl.cfg").write_text(f"{SECRET}\nsecond line\n")
    assets = tmp_path / "model" / "assets"
    assets.mkdir(parents=True)
    (assets / "words.txt").write_text("first\nsecond\n")
    return Surroundings(secret=outside / "ssl.cfg", written=tmp_path / "written", assets=assets)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_is_refused(name: str, around: Surroundings) -> None:
    attack = ATTACKS[name]
    folder = write(attack, around.assets.parent, around)
    with pytest.raises(InputError) as caught:
        lint(folder)
    if isinstance(attack.refused, str):
        assert caught.value.code == attack.refused
    else:
        assert isinstance(caught.value, RefusedOperationError)
        assert tuple(found.operation for found in caught.value.findings) == attack.refused


@pytest.mark.parametrize("name", EFFECTIVE)
def test_served_without_the_lint_it_would_do_harm(name: str, around: Surroundings) -> None:
    attack = ATTACKS[name]
    (answer,) = answers(attack, around, [b"x"])
    assert (SECRET.encode() in answer) is attack.reveals
    assert any(around.written.parent.glob(f"{around.written.name}*")) is attack.writes


@pytest.mark.parametrize("name", KEEPING)
def test_what_one_client_sends_would_reach_the_next(name: str, around: Surroundings) -> None:
    first, second = answers(ATTACKS[name], around, [b"mine", b"yours"])
    assert b"mine" not in first
    assert b"mine" in second


def test_guesses_of_the_first_clients_input_would_be_confirmed(around: Surroundings) -> None:
    (first,) = batches(ATTACKS["reserved_key_of_a_table"], around, [[b"mine", b"?"]])
    assert first == b"0"
    with pytest.raises(TensorFlowError) as caught:
        batches(ATTACKS["reserved_key_of_a_table"], around, [[b"mine", b"?"], [b"?", b"mine"]])
    assert "Using the empty_key as a table key is not allowed" in caught.value.text


def test_a_table_with_reserved_keys_of_the_model_passes(around: Surroundings) -> None:
    def build(tf: Any, _around: Surroundings) -> Parts:
        x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
        key = tf.constant(0, tf.int64)
        table = tf.raw_ops.MutableDenseHashTableV2(
            empty_key=key, deleted_key=tf.constant(-1, tf.int64), value_dtype=tf.int64
        )
        return Parts(y=tf.fill(tf.shape(x), tf.raw_ops.LookupTableSizeV2(table_handle=table)).name)

    lint(write(Attack(build=build, refused=()), around.assets.parent, around))


@pytest.mark.parametrize("name", ["position_of_a_generator", "position_of_a_seeded_operation"])
def test_how_many_numbers_one_client_draws_would_reach_the_next(name: str, around: Surroundings) -> None:
    seen = {tuple(answers(ATTACKS[name], around, [first, b"x"]))[1] for first in (b"a", b"b", b"a")}
    assert len(seen) == 2


@pytest.mark.parametrize("name", ["pattern_in_an_error", "replacement_in_an_error"])
def test_what_a_client_sends_would_be_printed(
    name: str, around: Surroundings, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        answers(ATTACKS[name], around, [b"sent-by-a-client"])
    except TensorFlowError:
        assert name == "pattern_in_an_error"  # an invalid replacement is not an error
    assert "sent-by-a-client" in capfd.readouterr().err


def test_a_pattern_of_the_model_and_numbers_without_a_seed_pass(around: Surroundings) -> None:
    def build(tf: Any, _around: Surroundings) -> Parts:
        x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
        plain = tf.raw_ops.RegexReplace(input=x, pattern="a", rewrite="b")
        drawn = tf.raw_ops.RandomUniform(shape=[1], dtype=tf.float32)
        return Parts(y=tf.strings.join([plain, tf.strings.as_string(drawn)]).name)

    lint(write(Attack(build=build, refused=()), around.assets.parent, around))


def answers(attack: Attack, around: Surroundings, inputs: list[bytes]) -> Iterator[bytes]:
    """Serve the hostile model as the embedded server would, and return its answer to each input."""
    return batches(attack, around, [[text] for text in inputs])


def batches(attack: Attack, around: Surroundings, inputs: list[list[bytes]]) -> Iterator[bytes]:
    """Serve the hostile model, and return its answer to each request of one or more texts."""
    folder = write(attack, around.assets.parent, around)
    session = Session.load(library(), folder, tags=["serve"], intra_op_threads=1, inter_op_threads=1)
    signature = session.signatures["serving_default"]
    x, y = session.endpoint(signature.inputs["x"].name), session.endpoint(signature.outputs["y"].name)
    collected = []
    for texts in inputs:
        (answer,) = session.run([(x, Tensor.from_strings(library(), [len(texts)], texts))], [y])
        collected.append(b"\n".join(answer.strings()))
    session.close()
    return iter(collected)


UNWRITTEN = """
import sys
import numpy as np
import tensorflow as tf

raw, failing = tf.raw_ops, tf.constant(-np.eye(8), tf.float32)
found = {
    "Cholesky": lambda: raw.Cholesky(input=failing),
    "Eig": lambda: raw.Eig(input=failing, compute_v=False, Tout=tf.complex64)[1],
    "SelfAdjointEigV2": lambda: raw.SelfAdjointEigV2(input=failing, compute_v=False)[1],
    "Svd": lambda: raw.Svd(input=failing, compute_uv=False)[1],
    "FakeParam": lambda: raw.FakeParam(dtype=tf.float32, shape=[64]),
    "Empty": lambda: raw.Empty(shape=[64], dtype=tf.float32),
    "Eig with vectors": lambda: tf.stack(raw.Eig(input=failing, compute_v=True, Tout=tf.complex64)[1]),
    "SelfAdjointEigV2 with vectors": lambda: raw.SelfAdjointEigV2(input=failing, compute_v=True)[1],
    "Svd with vectors": lambda: raw.Svd(input=failing, compute_uv=True)[1],
    "Svd of what is no number": lambda: raw.Svd(input=failing * np.nan, compute_uv=True)[1],
    "DynamicStitch": lambda: raw.DynamicStitch(indices=[[63]], data=[[1.0]]),
}
for name, run in found.items():
    print(name, np.asarray(run()).tobytes().hex(), sep="=")
"""


def test_operations_that_leave_memory_unwritten_are_refused_and_no_others_that_were_tried() -> None:
    answers = []
    for pattern in ("165", "90"):  # the byte with which the C library fills allocated and freed memory
        environment = {**os.environ, "MALLOC_PERTURB_": pattern, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            [sys.executable, "-c", UNWRITTEN], env=environment, capture_output=True, text=True, check=True
        )
        answers.append(dict(line.split("=") for line in done.stdout.splitlines()))
    differing = {name for name, answer in answers[0].items() if answer != answers[1][name]}
    unwritten = {"leaves-unwritten", "unwritten-memory"}
    refused = {name for name in answers[0] if name in class_of() and class_of()[name].name in unwritten}
    assert differing == refused == {name for name in answers[0] if " " not in name} - {"DynamicStitch"}
