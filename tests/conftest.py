"""What all tests share: no example has a deadline, and hypothesis keeps no database in the checkout."""

import gc

from hypothesis import HealthCheck, settings

settings.register_profile(
    "sealserve", deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sealserve")


def pytest_collection_finish() -> None:
    gc.collect()  # what was imported and collected stays: the collector need not go over it time and again
    gc.freeze()
