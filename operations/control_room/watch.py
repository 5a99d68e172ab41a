"""What changed between two looks, in words: pure functions, each of the state before and the state now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from moves.record import Move
from operations.control_room.events import Happening, Level
from operations.control_room.nodes import Word
from routing.shard_map import ShardMap

_SAID: Mapping[Word, tuple[Level, str]] = {
    "silent": ("error", "does not answer: frozen, or cut off"),
    "down": ("error", "is down: it takes no connections"),
    "rewinding": ("warning", "is being made to follow the new primary"),
    "other-history": ("warning", "answers, on a history that its shard has left"),
    "lagging": ("warning", "is too far behind to be read from"),
    "replica": ("info", "answers as a replica"),
    "primary": ("info", "answers as the primary"),
}


@dataclass(frozen=True, slots=True)
class Look:
    """What a worker sees at one moment. `shards`: of each its primary, None without one, and its timeline."""

    nodes: Mapping[str, Word] = field(default_factory=dict)
    shards: Mapping[str, tuple[str | None, int]] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    map: ShardMap | None = None
    away: Mapping[str, bool] = field(default_factory=dict)


def changes(before: Look, now: Look) -> Iterator[Happening]:
    """What is to be said; of a first look, from an empty one, only what is wrong."""
    yield from _of_nodes(before, now)
    yield from _of_shards(before, now)
    yield from _of_flags(before, now)
    yield from _of_map(before, now)
    yield from _of_servers(before, now)


def _of_nodes(before: Look, now: Look) -> Iterator[Happening]:
    for name, word in now.nodes.items():
        was = before.nodes.get(name)
        if word == was or word not in _SAID:
            continue
        level, text = _SAID[word]
        # What is well is said of a node that was not, but not when it is first heard of.
        if level == "info" and was in (None, "unknown"):
            continue
        if word == "primary" and was not in ("silent", "down"):
            continue  # a failover, said of its shard
        if word == "replica" and was == "lagging":
            text = "has caught up"
        yield Happening("node", level, name, text, f"node:{name}", word)


def _of_shards(before: Look, now: Look) -> Iterator[Happening]:
    for shard, (primary, timeline) in now.shards.items():
        was, was_on = before.shards.get(shard, (None, 0))
        if primary is None:
            if shard in before.shards and was is not None:
                yield Happening(
                    "failover", "error", shard, "has no primary: writes are refused", f"shard:{shard}", "none"
                )
            continue
        if was_on and timeline > was_on:
            text = f"{primary} is the primary now, on timeline {timeline}"
            yield Happening("failover", "warning", shard, text, f"shard:{shard}", f"{primary}/{timeline}")
        elif was is None and shard in before.shards:
            yield Happening(
                "failover",
                "info",
                shard,
                f"{primary} is its primary again",
                f"shard:{shard}",
                f"{primary}/{timeline}",
            )


def _of_flags(before: Look, now: Look) -> Iterator[Happening]:
    for name, enabled in now.flags.items():
        if before.flags.get(name, enabled) != enabled:
            text = "on" if enabled else "off"
            yield Happening("flag", "info", name, f"switched {text}", f"flag:{name}", text)


def _of_map(before: Look, now: Look) -> Iterator[Happening]:
    if before.map is None or now.map is None or before.map.epoch == now.map.epoch:
        return
    earlier = {shard.name for shard in before.map.shards}
    shards = {shard.name for shard in now.map.shards}
    for name in sorted(shards - earlier):
        yield Happening("map", "info", name, "is a shard now", f"map:{name}", "there")
    for name in sorted(earlier - shards):
        yield Happening("map", "info", name, "is no shard any more", f"map:{name}", "gone")
    owned = [(shard, round(100 * now.map.share(shard))) for shard in sorted(shards)]
    if now.map.partitions != before.map.partitions:
        text = "partitions were given out anew: " + ", ".join(f"{name} {share} %" for name, share in owned)
        yield Happening("map", "info", "ring", text, "map:ring", str(now.map.epoch))


def _of_servers(before: Look, now: Look) -> Iterator[Happening]:
    for name, away in now.away.items():
        if before.away.get(name, False) != away:
            level: Level = "error" if away else "info"
            text = "is away, and done without" if away else "answers again"
            yield Happening("server", level, name, text, f"server:{name}", "away" if away else "here")


def moved(before: Mapping[str, str], moves: Sequence[Move]) -> Iterator[Happening]:
    """What is to be said of moves, by their states at the look before."""
    for move in moves:
        if before.get(str(move.id)) == move.state or (move.tidied_at and str(move.id) not in before):
            continue
        level: Level = "error" if move.state == "failed" else "info"
        text = f"{move.from_shard} → {move.to_shard}: {move.state.replace('_', ' ')}"
        yield Happening(
            "move", level, "a store", text, f"move:{move.id}", move.state, store_id=str(move.store_id)
        )
