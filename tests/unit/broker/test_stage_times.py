from sealserve.broker.stage_times import Stage, StageTimes


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def sums(times: StageTimes) -> dict[str, float]:
    (family,) = times.histogram.collect()
    counted = {found.labels["stage"] for found in family.samples if found.name.endswith("_count") and found.value}
    return {
        found.labels["stage"]: found.value
        for found in family.samples
        if found.name.endswith("_sum") and found.labels["stage"] in counted
    }


def test_parts_of_a_stage_are_added_and_the_whole_has_all_of_them() -> None:
    clock = Clock()
    times = StageTimes("test_seconds", clock=clock)
    request = times.request()
    for stage, seconds in ((Stage.HANDSHAKE, 1), (Stage.DATABASE, 2), (Stage.SEND, 4), (Stage.DATABASE, 8)):
        request.begin(stage)
        clock.seconds += seconds
    request.succeed()
    clock.seconds += 100
    request.record()
    request.record()
    assert sums(times) == {"handshake": 1, "database": 10, "send": 4, "whole": 15}


def test_a_stage_that_failed_is_not_counted() -> None:
    clock = Clock()
    times = StageTimes("test_seconds", clock=clock)
    request = times.request()
    request.begin(Stage.HANDSHAKE)
    clock.seconds += 1
    request.begin(Stage.REQUEST)
    clock.seconds += 15
    request.record()
    assert sums(times) == {"handshake": 1}


def test_a_stage_of_a_request_costs_little() -> None:
    times = StageTimes("test_seconds")
    request = times.request()
    for stage in Stage:
        request.begin(stage)
    request.succeed()
    request.record()
    assert set(sums(times)) == set(Stage)
