"""One client against a quota: how many requests it gets through in any window, by how they are counted."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from itertools import accumulate

from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground, at_once, new_key
from lab.picture import over_time
from lab.wire import Wire

# The whole load lies in one window, so that what is admitted of it may be compared with the quota as it is.
AFTER_SECONDS = 0.4
# Of the quota, asked for in each second behind the burst.
PART_PER_SECOND = 0.5
STEADY_SECONDS = 4.0
COLUMN_SECONDS = 0.25
CONNECTIONS = 4

# Both count by the server's clock and decide in one script, so that what they admit too much is by their rule and not
# by a race.
_FIXED = """
local time = redis.call('TIME')
local window = math.floor((time[1] + time[2] / 1e6 - ARGV[2]) / ARGV[3])
local key = KEYS[1] .. window
if redis.call('INCR', key) > tonumber(ARGV[1]) then return 0 end
redis.call('EXPIRE', key, 2 * ARGV[3])
return 1
"""
_SLIDING = """
local time = redis.call('TIME')
local windows = (time[1] + time[2] / 1e6 - ARGV[2]) / ARGV[3]
local window = math.floor(windows)
local before = tonumber(redis.call('GET', KEYS[1] .. (window - 1)) or 0)
local current = tonumber(redis.call('GET', KEYS[1] .. window) or 0)
if before * (1 - (windows - window)) + current >= tonumber(ARGV[1]) then return 0 end
redis.call('INCR', KEYS[1] .. window)
redis.call('EXPIRE', KEYS[1] .. window, 2 * ARGV[3])
return 1
"""
# Asks so many times, as one burst; for each whether it was admitted.
Burst = Callable[[int], list[bool]]


def _counted_by(script: str) -> Callable[[Ground], Figures]:
    def run(ground: Ground) -> Figures:
        client, prefix = ground.redis(), f"lab:{new_key()}:"
        quota, window_seconds = _policy(ground)
        decide = client.register_script(script)
        seconds, microseconds = client.time()
        # Forced: a window ends right behind the burst. Who looks for that moment finds it with the clock on the wall.
        boundary = int(seconds) + int(microseconds) / 1e6 + AFTER_SECONDS

        def burst(count: int) -> list[bool]:
            return [decide(keys=[prefix], args=[quota, boundary, window_seconds]) == 1 for _ in range(count)]

        return _press(burst, quota, window_seconds)

    return run


def _by_the_service(ground: Ground) -> Figures:
    quota, window_seconds = _policy(ground)
    shop = ground.new_shop()
    guest = ground.new_session(shop)

    def ask(count: int) -> list[bool]:
        """In one packet."""
        with Wire(ground.servers.address) as wire:
            answers = wire.pipeline([("GET", shop.path, guest, None)] * count)
        statuses = {answer.status for answer in answers}
        if not statuses <= {HTTPStatus.OK, HTTPStatus.TOO_MANY_REQUESTS}:
            raise SystemExit(f"the limiter answered {statuses}")
        return [answer.good for answer in answers]

    def burst(count: int) -> list[bool]:
        if count < CONNECTIONS:
            return ask(count)
        return [each for part in at_once(lambda _: ask(count // CONNECTIONS), CONNECTIONS) for each in part]

    return _press(burst, quota, window_seconds)


def _policy(ground: Ground) -> tuple[int, int]:
    """A session's quota and its window in seconds, as the service has them set."""
    ground.flags(rate_limit=True)
    shop = ground.new_shop()
    said = ground.good("GET", shop.path, ground.new_session(shop)).headers["ratelimit-policy"]
    found = re.search(r'"session";q=(\d+);w=(\d+)', said)
    if found is None:
        raise SystemExit(f"no policy for a session: {said}")
    return int(found[1]), int(found[2])


def _press(burst: Burst, quota: int, window_seconds: int) -> Figures:
    """Twice the quota at once, then steadily on."""
    began = time.monotonic()
    admitted = Counter({0: sum(burst(2 * quota))})
    first = admitted[0]
    asked = 2 * quota
    steady = began + 2 * AFTER_SECONDS
    per_second = PART_PER_SECOND * quota
    for number in range(round(per_second * STEADY_SECONDS)):
        due = steady + number / per_second
        time.sleep(max(0.0, due - time.monotonic()))
        if time.monotonic() - began > 0.95 * window_seconds:
            break  # beyond, the first ones may have left the window
        admitted[int((due - began) / COLUMN_SECONDS)] += sum(burst(1))
        asked += 1
    total = admitted.total()
    columns = round((2 * AFTER_SECONDS + STEADY_SECONDS) / COLUMN_SECONDS)
    return {
        "times_the_quota": total / quota,
        "admitted": total,
        "asked": asked,
        "quota": quota,
        "window_seconds": window_seconds,
        "admitted_of_the_burst": first,
        "admitted_so_far": list(accumulate(admitted[number] for number in range(columns))),
    }


EXPERIMENT = Experiment(
    name="limiter-burst",
    shows="in no window more than the quota, wherever it begins",
    story=(
        "A client may make so many requests in 10 s. It sends twice as many at once, and goes on asking. Counted by"
        " the clock's windows, a burst right before a window's end is forgotten right after it, and the whole quota is"
        " admitted again. Two windows weighed against each other forget it a little at a time, as if it had been spread"
        " evenly: four tenths of the quota are to be had again after four tenths of a window. Here each request that"
        " was admitted is remembered, with its time, until it is older than the window: a list in Redis that one script"
        " looks at and appends to, so that all workers decide as one."
    ),
    figure="times_the_quota",
    naive=(
        Variant("fixed window", _counted_by(_FIXED)),
        Variant("two windows, weighed", _counted_by(_SLIDING)),
    ),
    cure=Variant("each request in its window", _by_the_service),
    held=lambda without, cured: without > 1.5 and 0.9 <= cured <= 1,  # noqa: PLR2004 - the quota itself is to be had
    picture=over_time("admitted_so_far", "times_the_quota", "times the quota"),
)
