import pytest

from sealserve.enclave.sizing import MEBIBYTE, size_enclave
from sealserve.terms import ServerKind

GIBIBYTE = 1024 * MEBIBYTE
EMBEDDED, SERVING = ServerKind.EMBEDDED, ServerKind.TENSORFLOW_SERVING


def test_a_small_model_takes_what_was_measured_to_a_power_of_two() -> None:
    size = size_enclave(EMBEDDED, model=100 * MEBIBYTE, threads=80)
    assert size.size == 4 * GIBIBYTE
    assert 3 * GIBIBYTE < size.needed < 4 * GIBIBYTE
    assert {item.what: item.size for item in size.items}["the model"] == 1200 * MEBIBYTE
    assert size.rule.startswith("rounded up to a power of two")


@pytest.mark.parametrize(("model", "expected"), [(150, 4), (300, 8), (1000, 16)])
def test_a_larger_model_takes_a_larger_enclave(model: int, expected: int) -> None:
    assert size_enclave(EMBEDDED, model=model * MEBIBYTE, threads=80).size == expected * GIBIBYTE


def test_more_threads_take_more() -> None:
    few, many = (size_enclave(EMBEDDED, model=0, threads=threads).needed for threads in (80, 180))
    assert many - few == 100 * (2 * MEBIBYTE + 360 * 1024)


def test_the_binary_of_tensorflow_serving_counts_as_large_as_it_is() -> None:
    known = size_enclave(SERVING, model=0, threads=80, program=300 * MEBIBYTE)
    unknown = size_enclave(SERVING, model=0, threads=80)
    assert unknown.needed - known.needed == 212 * MEBIBYTE


def test_tensorflow_serving_needs_more_for_an_optimized_model() -> None:
    sizes = {
        kind: size_enclave(kind, threads=80, model=100 * MEBIBYTE, optimized=40 * MEBIBYTE)
        for kind in (EMBEDDED, SERVING)
    }
    needed = {kind: next(item for item in size.items if item.what == "the model") for kind, size in sizes.items()}
    assert needed[EMBEDDED].size == 1200 * MEBIBYTE
    assert needed[SERVING].size == (60 * 12 + 40 * 20) * MEBIBYTE
    assert "12 and 20 times its files" in needed[SERVING].why


def test_with_edmm_the_size_is_a_limit_with_room() -> None:
    size = size_enclave(EMBEDDED, model=100 * MEBIBYTE, threads=80, edmm=True)
    assert size.size == 16 * GIBIBYTE
    assert "a limit only" in size.rule


def test_a_chosen_size_is_taken_and_the_sum_still_shown() -> None:
    size = size_enclave(EMBEDDED, model=0, threads=80, wanted=2 * GIBIBYTE)
    assert size.size == 2 * GIBIBYTE
    assert size.needed > 2 * GIBIBYTE
    assert "enclave.size" in size.rule


def test_rest_takes_room_for_its_libraries_and_a_body() -> None:
    off, on = (size_enclave(EMBEDDED, model=0, threads=80, rest=rest) for rest in (False, True))
    assert on.needed - off.needed == 128 * MEBIBYTE
    assert {item.what for item in on.items} - {item.what for item in off.items} == {"REST"}
