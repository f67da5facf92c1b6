"""What all tests share: no example has a deadline, and hypothesis keeps no database in the checkout."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "sealserve", deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sealserve")
