"""Fixtures for every level of tests."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.cluster_fixtures"]

# No limits of time: a busy machine must not fail a test, nor choose the examples.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
