"""Fixtures for every level of tests."""

import signal

from hypothesis import HealthCheck, settings

# Whoever is started in a shell's background ignores Ctrl-C, and so do its children, which tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.cluster_fixtures"]

# No limits of time: a busy machine must not fail a test, nor choose the examples.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
