import threading
from datetime import UTC, datetime

import pytest
from tests.harness.errors import raises

from sealserve.serving.metrics import Counter, Histogram, Metrics
from sealserve.serving.request_errors import RequestCode, Status
from sealserve.serving.servables import Servables


def test_a_counter_is_named_as_tensorflow_serving_names_it() -> None:
    counter = Counter(":tensorflow:serving:request_count", "model_name", "status")
    counter.add("m", "OK")
    counter.add("m", "OK", by=2)
    counter.add('a"\\', "NOT_FOUND")
    assert list(counter.lines()) == [
        "# TYPE :tensorflow:serving:request_count counter",
        ':tensorflow:serving:request_count{model_name="a\\"\\\\",status="NOT_FOUND"} 1',
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 3',
    ]


def test_a_histogram_adds_its_buckets_up() -> None:
    histogram = Histogram("h", "model", scale=1, growth=2, buckets=3)
    for value in (0.5, 1, 3, 100):
        histogram.add("m", value=value)
    assert list(histogram.lines()) == [
        "# TYPE h histogram",
        'h_bucket{model="m",le="1"} 2',
        'h_bucket{model="m",le="2"} 2',
        'h_bucket{model="m",le="4"} 3',
        'h_bucket{model="m",le="+Inf"} 4',
        'h_sum{model="m"} 104.5',
        'h_count{model="m"} 4',
    ]


def test_a_metric_without_labels() -> None:
    histogram = Histogram("h", scale=1, growth=2, buckets=1)
    histogram.add(value=1)
    assert 'h_bucket{le="1"} 1' in list(histogram.lines())


def test_requests_are_counted_with_their_status_and_timed_where_they_succeed() -> None:
    metrics = Metrics()
    metrics.serve(["m"])
    with metrics.timed("Predict") as request:
        request.model = "m"
    refused = metrics.timed("Predict")
    refused.model = "m"
    with raises(RequestCode.MODEL_SPEC), refused:
        raise RequestCode.MODEL_SPEC.error("no")
    with pytest.raises(ZeroDivisionError), metrics.timed("Predict"):
        raise ZeroDivisionError
    page = metrics.page()
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 1\n' in page
    assert ':tensorflow:serving:request_count{model_name="m",status="INVALID_ARGUMENT"} 1\n' in page
    assert ':tensorflow:serving:request_count{model_name="",status="INTERNAL"} 1\n' in page
    assert ':tensorflow:serving:request_latency_count{model_name="m",API="Predict",entrypoint="GRPC"} 1\n' in page
    assert page.count("request_latency_count") == 1


def test_names_of_models_that_are_not_served_take_no_memory() -> None:
    metrics = Metrics()
    metrics.serve(["m"])
    for number in range(1000):
        metrics.request(f"x{number}", Status.NOT_FOUND)
    assert ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"} 1000\n' in metrics.page()
    assert "x999" not in metrics.page()


def test_runtime_and_examples() -> None:
    metrics = Metrics()
    metrics.runtime_latency("m", "Predict", 0.000025)
    metrics.examples("m", 3)
    page = metrics.page()
    assert (
        ':tensorflow:serving:runtime_latency_bucket{model_name="m",API="Predict",runtime="TF1",le="32.4"} 1\n' in page
    )
    assert ':tensorflow:serving:runtime_latency_sum{model_name="m",API="Predict",runtime="TF1"} 25\n' in page
    assert ':tensorflow:serving:request_example_count_total{model="m"} 3\n' in page
    assert ':tensorflow:serving:request_example_counts_bucket{model="m",le="4"} 1\n' in page


def test_counting_from_many_threads_loses_nothing() -> None:
    counter = Counter("c", "l")

    def add() -> None:
        for _ in range(1000):
            counter.add("x")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 'c{l="x"} 4000' in list(counter.lines())


def test_the_end_of_the_certificate_is_told_once_it_is_known() -> None:
    metrics = Metrics()
    assert "certificate_expiry" not in metrics.page()
    metrics.certificate_ends(datetime(2027, 1, 1, tzinfo=UTC))
    assert "\nsealserve_server_certificate_expiry_timestamp_seconds 1798761600\n" in metrics.page()


def test_each_server_counts_for_itself() -> None:
    first, second = Servables(Metrics()), Servables(Metrics())
    first.metrics.request("m", Status.OK)
    assert "request_count{" in first.metrics.page()
    assert "request_count{" not in second.metrics.page()
