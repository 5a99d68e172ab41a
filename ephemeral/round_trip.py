"""Several commands in one packet, and their replies: a round trip to the Redis-compatible server that costs little.

Where it is several servers, a Redis Cluster, the commands of each go in one packet, to all of them before any reply is
awaited: so they are asked side by side, at the price of the system calls, and of two that freeze at once only one is
waited for. A server that is away takes with it what its keys would have answered, and no more.

Which server answers what is the fleet's to know (`ephemeral/fleet.py`). Where a server sends on to another one, that is
followed within the same request; what takes longer to find out is not waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import redis
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, ReadOnlyError

from config import parse_redis_url
from ephemeral.client import MAX_CONNECTIONS, PATIENCE_SECONDS, EphemeralUnavailable, connect
from ephemeral.fleet import Fleet, OneServer
from ephemeral.line import NOBODY, Reply, Server
from ephemeral.node import (
    PROBE_SECONDS,
    Packet,
    RedisNode,
    unavailable,
)
from ephemeral.redis_cluster import RedisCluster
from ephemeral.scripts import Call, Command
from ephemeral.sentinels import Sentinels

__all__ = ["PROBE_SECONDS", "Reply", "RoundTrips", "Server", "UnansweredError"]

# A key that is asked for while its slot moves is sent on twice; each server may not know the script.
_ROUNDS = 5


class UnansweredError(redis.ResponseError):
    """In place of a reply: the server that has the key is away, while others answered."""


@dataclass(slots=True)
class _Question:
    """A command, and how it is to be asked. `detour`: this once, for its slot is on the way to another server."""

    asked: Command | Call
    whole: bool = False
    detour: RedisNode | None = None

    def commands(self) -> list[Command]:
        command = self.asked.command(whole=self.whole) if isinstance(self.asked, Call) else self.asked
        return [command] if self.detour is None else [("ASKING",), command]


class RoundTrips:
    """Asks the fleet. For any number of greenlets or threads."""

    def __init__(
        self,
        servers: redis.Redis | Fleet,
        max_connections: int = MAX_CONNECTIONS,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        """Of a client only where the server is and how to sign in; its own connections and timeouts are not used."""
        self._fleet: Fleet = (
            OneServer(servers, max_connections, probe_seconds)
            if isinstance(servers, redis.Redis)
            else servers
        )

    @classmethod
    def to(cls, url: str, patience_seconds: float = PATIENCE_SECONDS) -> RoundTrips:
        """To whom the setting `REDIS_URL` says."""
        parsed = parse_redis_url(url)
        if parsed.kind == "server":
            return cls(connect(parsed.one_server, patience_seconds))
        followed = Sentinels if parsed.kind == "sentinel" else RedisCluster
        return cls(followed(parsed, patience_seconds))

    def start(self, seconds: float) -> None:
        """Before there are requests: find out who is who, for so long at most. They would not wait for it."""
        with suppress(EphemeralUnavailable):
            self._fleet.start(seconds)

    def ask(self, *commands: Command | Call) -> list[Reply]:
        """Send all commands, which may be done twice, then read all replies; these are in the commands' order.

        They are not a transaction: others' commands may come between them. Where it is a cluster the first argument of
        each is its key. Scripts that a server does not know (any more) are sent whole in a second packet, once for
        everybody.

        Raises `EphemeralUnavailable` where no server answers. Where some do, the others' values are `UnansweredError`.
        """
        node = self._fleet.only()
        if node is not None:
            replies = node.ask([each.command() if isinstance(each, Call) else each for each in commands])
        else:
            replies = self._ask([_Question(each) for each in commands])
        for reply in replies:
            if isinstance(reply.value, redis.ResponseError):
                return self._follow(commands, replies)
        return replies

    def ask_every(self, command: Command) -> list[Reply]:
        """Ask every server that has keys of its own. Those that are away are left out; raises
        `EphemeralUnavailable` where all of them are."""
        node = self._fleet.only()
        nodes = self._fleet.primaries() if node is None else [node]
        answers = _side_by_side({each: [command] for each in nodes}, self._fleet.patience_seconds)
        if not answers:
            raise unavailable()
        return [reply for replies in answers.values() for reply in replies]

    def away(self) -> Mapping[str, bool]:
        """Which servers are done without now, by name. Asks nobody."""
        return self._fleet.away()

    def close(self) -> None:
        """Look for servers no longer."""
        self._fleet.close()

    def _follow(self, commands: Sequence[Command | Call], replies: list[Reply]) -> list[Reply]:
        """Ask again where the reply was that it be asked in another way."""
        questions = {index: _Question(each) for index, each in enumerate(commands)}
        for _ in range(_ROUNDS):
            questions = {
                index: question
                for index, question in questions.items()
                if self._heed(question, replies[index].value)
            }
            if not questions:
                break
            for index, reply in zip(questions, self._ask(list(questions.values())), strict=True):
                replies[index] = reply
        if all(isinstance(reply.value, UnansweredError) for reply in replies):
            raise unavailable()
        return replies

    def _heed(self, question: _Question, value: object) -> bool:
        """Whether it is to be asked again after this reply."""
        if isinstance(value, NoScriptError) and isinstance(question.asked, Call):
            question.whole = True
            return True
        if isinstance(value, AskError):
            node = self._fleet.redirected(value)
            question.detour = None if isinstance(value, MovedError) else node
            return node is not None
        if isinstance(value, ReadOnlyError | ClusterDownError):
            self._fleet.doubt()
        return False

    def _ask(self, questions: Sequence[_Question]) -> list[Reply]:
        only = self._fleet.only()
        packets: dict[RedisNode, list[Command]] = {}
        places: list[tuple[RedisNode, int] | None] = []  # where each reply will be found
        for question in questions:
            node = question.detour or only or self._fleet.node_of(question.asked)
            if node is None:
                places.append(None)
                continue
            packet = packets.setdefault(node, [])
            packet += question.commands()
            places.append((node, len(packet) - 1))
        answers = _side_by_side(packets, self._fleet.patience_seconds)
        nothing = Reply(UnansweredError(), NOBODY)
        return [
            answers[place[0]][place[1]] if place is not None and place[0] in answers else nothing
            for place in places
        ]


def _side_by_side(
    commands: Mapping[RedisNode, Sequence[Command]], patience_seconds: float
) -> dict[RedisNode, list[Reply]]:
    """The replies of those that answer."""
    packets: dict[RedisNode, Packet] = {}
    sent: list[RedisNode] = []
    answers: dict[RedisNode, list[Reply]] = {}
    try:
        # In one order for everybody: of two who each wait for a connection that the other one has, none would get on.
        for node in sorted(commands, key=lambda node: node.name):
            with suppress(EphemeralUnavailable):
                packets[node] = Packet(node, commands[node])
                packets[node].send()
                sent.append(node)
        # Of several that do not answer only the first is waited for. Those without a connection yet come first: they
        # have not been asked, and answer meanwhile to nobody.
        deadline = monotonic() + patience_seconds if len(sent) > 1 else None
        for node in sorted(sent, key=lambda node: packets[node].sent):
            with suppress(EphemeralUnavailable):
                answers[node] = packets[node].read(deadline)
    finally:
        for packet in packets.values():
            packet.end()
    return answers
