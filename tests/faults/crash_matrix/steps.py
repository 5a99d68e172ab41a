"""The steps of a move after which something breaks: each a thing that the mover has done, and the how manieth time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moves import drive
from moves.record import Record
from moves.switch import Handover
from tests.faults import moves_killed

DEEDS: tuple[tuple[Any, str], ...] = (
    *moves_killed.DEEDS,
    (Record, "progress"),
    (drive, "compare_whole"),
    (Handover, "_compare"),
)


def deed_name(owner: Any, name: str) -> str:
    return f"{owner.__name__.rpartition('.')[2]}.{name}"


@dataclass(frozen=True, slots=True)
class Step:
    """`writers_wait`: from here on writers wait until the next ones, so that it is not to be stood at for long."""

    title: str
    deed: str
    number: int = 1
    writers_wait: bool = False


FORTH = (
    Step("claimed on both", "Side.claim", 2),
    Step("published", "replication.publish"),
    Step("slot registered", "Record.register", 5),
    Step("slot and snapshot", "drive.Snapshot"),
    Step("copying", "Record.progress"),
    Step("copied", "drive.copy_rows"),
    Step("subscribed", "replication.subscribe"),
    Step("way back published", "replication.publish", 2),
    Step("way back has a slot", "replication.make_slot"),
    Step("way back subscribed", "replication.subscribe", 2),
    Step("compared whole", "drive.compare_whole"),
    Step("blocked", "Side.block", writers_wait=True),
    Step("drained", "Side.drain", writers_wait=True),
    Step("compared again", "Handover._compare", writers_wait=True),
    Step("block held", "Side.hold_block", writers_wait=True),
    Step("prepared", "Side.prepare", writers_wait=True),
    Step("decided", "Record.decide", writers_wait=True),
    Step("departed", "Side.depart", writers_wait=True),
    Step("open", "Side.open"),
    Step("done", "Record.opened"),
    Step("way forth unsubscribed", "replication.drop"),
    Step("way back enabled", "replication.enable"),
    Step("way forth gone", "replication.drop", 3),
    Step("way back gone", "replication.drop", 6),
    Step("rows going", "Side.delete_batch"),
    Step("standing gone", "Side.forget"),
)


def shares(steps: Sequence[Step], at_once: int = 9) -> list[Sequence[Step]]:
    """Steps for so many stores at a time, each from all over a move."""
    rounds = -(-len(steps) // at_once)
    return [steps[number::rounds] for number in range(rounds)]
