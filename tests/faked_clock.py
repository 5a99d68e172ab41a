"""Lua for tests in front of a script: its TIME is what the test says, and keys expire by that clock.

The script itself is the one that runs in production. `TIME` and `PEXPIREAT` are all that it knows of time; they are
taken from it, the rest goes to the server.
"""

from __future__ import annotations

from typing import Any

import redis

from ephemeral.scripts import Script

# The clock is a key, in microseconds. A key's end is noted in a hash; whoever asks for the time finds it ended.
_PRELUDE = """
local server = redis
local redis = {call = function(command, ...)
    if command == 'TIME' then
        local now = tonumber(server.call('GET', 'faked:clock'))
        local ends = server.call('HGETALL', 'faked:ends')
        for i = 1, #ends, 2 do
            if tonumber(ends[i + 1]) * 1000 <= now then
                server.call('DEL', ends[i])
                server.call('HDEL', 'faked:ends', ends[i])
            end
        end
        return {tostring(math.floor(now / 1000000)), tostring(now % 1000000)}
    elseif command == 'PEXPIREAT' then
        local key, at = ...
        return server.call('HSET', 'faked:ends', key, at)
    end
    return server.call(command, ...)
end}
"""


class FakedClock:
    """A server's scripts by a clock that stands still until `now_microseconds` is set."""

    def __init__(self, server: redis.Redis, name: str) -> None:
        self._server = server
        self._script = server.register_script(_PRELUDE + Script(name).text)
        self.now_microseconds = 1_800_000_000_000_000

    def __call__(self, keys: list[str], arguments: list[int]) -> Any:
        self._server.set("faked:clock", self.now_microseconds)
        return self._script(keys, arguments)
