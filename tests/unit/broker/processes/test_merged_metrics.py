"""The merged metrics page of several processes."""

from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from sealserve.broker.metrics import Decisions, Fetched, Observed, Outcome
from sealserve.broker.processes.merged_metrics import RULES, merged

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def observed(*, released: int = 0, ends: datetime = NOW, reloads: bool = True, waiting: int = 0) -> Observed:
    decisions = Decisions()
    for _ in range(released):
        decisions.count(Outcome.RELEASED)
    made = Observed(
        decisions=decisions,
        certificates=lambda: {"broker": ends},
        collateral=lambda: {("sgx", "tcb"): Fetched(ends, ends)},
        ready=lambda: None,
        connections=lambda: {"busy": released},
        reloads=lambda: {"certificate": reloads},
        waiting=lambda: waiting,
    )
    request = made.stages.request()
    request.succeed()
    request.record()
    return made


def values(page: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name.removeprefix("sealserve_broker_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_counters_and_histograms_are_sums_and_each_gauge_has_its_rule() -> None:
    later = datetime(2026, 2, 1, tzinfo=UTC)
    found = values(
        merged([
            observed(released=3, waiting=2).page(),
            observed(released=4, ends=later, reloads=False, waiting=1).page(),
        ])
    )  # fmt: skip
    assert found["decisions_total", ("", "released")] == 7
    assert found["stage_duration_seconds_count", ("whole",)] == 2
    assert found["connections", ("busy",)] == 7
    assert found["certificate_expiry_timestamp_seconds", ("broker",)] == NOW.timestamp()
    assert found["collateral_next_update_timestamp_seconds", ("tcb", "sgx")] == NOW.timestamp()
    assert found["last_reload_successful", ("certificate",)] == 0
    assert found["notifications_waiting", ()] == 3
    assert found["processes", ()] == 2


def test_a_page_of_an_ended_process_keeps_only_what_accumulates() -> None:
    ended = merged([observed(released=5).page()], accumulated_only=True)
    found = values(merged([observed(released=1).page(), ended]))
    assert found["decisions_total", ("", "released")] == 6
    assert found["processes", ()] == 1
    assert found["connections", ("busy",)] == 1
    # Repeated merging loses and adds nothing.
    assert values(merged([ended, ""], accumulated_only=True)) == values(ended)


def test_each_gauge_has_a_rule() -> None:
    families = list(text_string_to_metric_families(observed().page()))
    assert {family.name for family in families if family.type == "gauge"} == set(RULES)


def test_the_merged_page_of_one_process_is_its_page() -> None:
    page = observed(released=2).page()
    assert values(merged([page])) == values(page)
