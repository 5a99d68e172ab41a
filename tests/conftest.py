"""Fixtures for every level of tests."""

import os
import resource
import signal

from hypothesis import HealthCheck, settings

# Whoever is started in a shell's background ignores Ctrl-C, and so do its children, which tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The hundreds of processes that tests start would each compile every module anew: a quarter of their processor time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A thousand clients at once are a thousand sockets, here and in the service: more than a shell allows at first.
_FILES = 4096
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if _soft != resource.RLIM_INFINITY and _soft < _FILES:
    _most = _FILES if _hard == resource.RLIM_INFINITY else min(_FILES, _hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_most, _hard))

pytest_plugins = ["tests.cluster_fixtures"]

# No limits of time: a busy machine must not fail a test, nor choose the examples.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
