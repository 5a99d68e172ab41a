"""One move, from where it stands to its next rest: what is done in each state, and taken back where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

from moves import replication
from moves.baseline import Baseline, compare_whole
from moves.copying import copy_rows
from moves.errors import MarkLate, MoveCancelled, MoveFailed, MoveInterrupted
from moves.pace import DELETED, SLICE_ROWS, Pace
from moves.record import Kind, Move, Record, Resource
from moves.replication import BACK, FORTH, Snapshot, name_of
from moves.servers import Servers
from moves.side import Side, Standing
from moves.slices import slices
from moves.switch import Handover, await_mark, complete, paused
from moves.tables import Table, same_tables, tables_of

# So many tries, with what they made taken back in between, until a move is given up.
ATTEMPTS = 5
# How often a switch is tried again that took too long, before the copy is thrown away with it.
SWITCHES = 5
SWITCH_PAUSE_SECONDS = 0.5
# Who waits for less than this at the switch hardly notices. A busy store may never get below; behind the second,
# writers would wait for too long.
CAUGHT_UP_SECONDS, BEARABLE_SECONDS = 0.1, 0.5
CATCH_UP_SECONDS = 600.0
PATIENT_SECONDS = 10.0
# How long one mark is waited for, until it is looked whether to go on.
MARK_SECONDS = 2.0
REPORT_SECONDS = 0.2
# What the step says of an attempt that came to nothing, before the reason.
AGAIN = "begins again: "
_TAKEN_BACK = "taken back before the switch"

Check = Callable[[], None]


class Drive:
    """One move's next step. Its connections are its own, and closed with it."""

    def __init__(self, servers: Servers, record: Record, move: Move, check: Check, pace: Pace) -> None:
        self._servers = servers
        self._record = record
        self._move = move
        self._check = check  # raises where this mover has to stop
        self._pace = pace
        self._forth, self._back = name_of(move, FORTH), name_of(move, BACK)
        self._map = record.shard_map()
        self._opened = ExitStack()

    def __enter__(self) -> Drive:
        return self

    def __exit__(self, *_error: object) -> None:
        self._opened.close()

    def advance(self) -> None:
        """Do what is next; returns where nothing is, for now."""
        move = self._move
        if move.decided_epoch is not None and not move.is_open:
            self._complete()
        elif move.is_undecided:
            self._attempt()
        elif move.state == "done" and move.undo_asked:
            self._undo()
        elif move.due:
            self._tidy()
        elif move.state == "done":
            self._watch()

    # Forth.

    def _attempt(self) -> None:
        move, record = self._move, self._record
        if not record.hold_undecided(move, "begins"):
            return  # it was decided after all
        if move.attempt:
            self._clear(loser=move.to_shard)
        if move.undo_asked:
            record.failed(move, _TAKEN_BACK, "rolled_back")
        elif move.attempt >= ATTEMPTS:
            record.failed(move, f"it came to nothing {move.attempt} times: {move.step}")
        else:
            why = move.step.removeprefix(AGAIN) if move.step.startswith(AGAIN) else ""
            record.begin_attempt(move, f"copies its rows again: {why}" if why else "copies its rows")
            try:
                self._go()
            except MoveCancelled:
                record.failed(move, _TAKEN_BACK, "rolled_back")
            except MoveFailed as error:
                record.failed(move, str(error))

    def _go(self) -> None:
        move, record = self._move, self._record
        here, there = self._side(move.from_shard, "home"), self._side(move.to_shard, "arriving")
        if here.standing != "home" or here.home_row() is None:
            raise MoveFailed(f"the store does not live on {here.shard}")
        if there.standing != "arriving":
            raise MoveFailed(f"the store is {there.standing} on {there.shard} already")
        tables = same_tables(here.connection, there.connection)
        self._copy(here, there, tables)
        record.step(move, "catching_up", f"follows {here.shard}")
        self._subscribe(there, here, self._forth, enabled=True)
        self._catch_up(here, there, self._forth, self._look)
        # Before writers wait: a slot's beginning waits for whatever runs there.
        replication.publish(record, move, there, self._back, tables)
        replication.make_slot(record, move, there, self._back)
        self._subscribe(here, there, self._back, enabled=False)
        self._catch_up(here, there, self._forth, self._look)
        record.step(move, "verifying", "compares both sides")
        handover = Handover(record, move, here, there, self._forth, tables)
        epoch, began, compared = self._switch(handover, self._look)
        complete(here, there, epoch)
        record.opened(move, "done", paused(began, compared))
        self._follow_back(here, there)

    def _copy(self, here: Side, there: Side, tables: list[Table]) -> None:
        move, record = self._move, self._record
        replication.publish(record, move, here, self._forth, tables)
        record.register(move, Resource(here.shard, "slot", self._forth))
        record.register(move, Resource(there.shard, "rows", move.store_id.hex))

        def report(copied: int, total: int) -> None:
            replication.check_slot(here, self._forth)  # lost, nothing of the copy is of use
            record.step(move, "copying", f"copies its rows, {self._pace.says}")
            record.progress(move, rows_total=total, rows_copied=copied)

        with (
            Snapshot(self._servers, self._map, here, self._forth) as snapshot,
            closing(self._servers.connect(self._map, here.shard)) as reader,
        ):
            copied = copy_rows(
                move,
                reader,
                there,
                tables,
                snapshot=snapshot.id,
                pace=self._pace,
                report=self._sometimes(report),
            )
        record.progress(move, rows_total=copied, rows_copied=copied)

    def _subscribe(self, follower: Side, leader: Side, name: str, *, enabled: bool) -> None:
        conninfo = self._servers.conninfo(self._map, leader.shard, application_name=name)
        replication.subscribe(self._record, self._move, follower, name, conninfo, enabled=enabled)

    def _catch_up(self, leader: Side, follower: Side, name: str, look: Check) -> None:
        """Until what is written there arrives in about a moment.

        Raises `MoveFailed` where it does not in all this time: another attempt would have to copy even more.
        """
        began = time.monotonic()
        while True:
            look()
            behind = replication.lag_bytes(leader, name)
            self._record.progress(self._move, lag_bytes=behind)
            waited = time.monotonic() - began
            with suppress(MarkLate):
                took = await_mark(leader, follower, name, MARK_SECONDS)
                if took < CAUGHT_UP_SECONDS or (waited > PATIENT_SECONDS and took < BEARABLE_SECONDS):
                    return
            if waited > CATCH_UP_SECONDS:
                raise MoveFailed(
                    f"the store is written faster than {follower.shard} follows: {behind or 0:,} bytes behind after"
                    f" {waited:,.0f} s"
                )

    def _switch(self, handover: Handover, look: Check) -> tuple[int, float, float]:
        handover = replace(handover, baseline=self._compare_whole(handover, look))
        for number in range(1, SWITCHES + 1):
            look()
            try:
                return handover.run(handover.leaving.home_row())
            except MoveInterrupted:
                if number == SWITCHES:
                    raise
                time.sleep(SWITCH_PAUSE_SECONDS * number)
        raise AssertionError("unreachable: the last one returns or raises")

    def _compare_whole(self, handover: Handover, look: Check) -> Baseline | None:
        leaving, arriving = handover.leaving, handover.arriving

        def report(_compared: int) -> None:
            if self._move.is_undecided:
                self._record.step(self._move, "verifying", f"compares both sides, {self._pace.says}")

        return compare_whole(
            self._move,
            leaving,
            arriving,
            handover.subscription,
            tables=handover.tables,
            connect=lambda shard: self._servers.connect(self._map, shard),
            pace=self._pace,
            report=self._sometimes(report, look),
        )

    def _follow_back(self, old: Side, new: Side) -> None:
        """What came forth has come; from here on the new home replicates back."""
        self._drop(new, "subscription", self._forth)
        self._drop(old, "slot", self._forth)
        replication.enable(old, self._back)
        # Last: while it is registered, this was not done to its end.
        self._drop(old, "publication", self._forth)

    def _complete(self) -> None:
        """It was decided, by somebody who is gone: only forward."""
        move = self._move
        undone = move.state == "rolled_back"
        here, there = self._side(move.from_shard, "home"), self._side(move.to_shard, "arriving")
        leaving, arriving = (there, here) if undone else (here, there)
        complete(leaving, arriving, move.decided_epoch or 0)
        self._record.opened(move, "rolled_back" if undone else "done", None)
        if not undone:
            self._follow_back(here, there)

    # Back.

    def _undo(self) -> None:
        move, record = self._move, self._record
        if not record.hold_undoing(move, "is taken back"):
            return  # it has been after all
        # What a mover that is gone may have begun: writes pass, also while the old home is away.
        there = self._side(move.to_shard, "home")
        there.unblock()
        here = self._side(move.from_shard, "departed")
        here.retract()
        handover = Handover(record, move, there, here, self._back, tables_of(there.connection))
        try:
            self._follow_back(here, there)
            self._catch_up(there, here, self._back, self._check)
            epoch, began, compared = self._switch(handover, self._check)
        except (MoveFailed, MoveInterrupted) as error:
            record.refuse_undo(move, f"it could not be undone: {error}")
            return
        complete(there, here, epoch)
        record.opened(move, "rolled_back", paused(began, compared))

    def _watch(self) -> None:
        """It can be undone, unless a failover has taken what that needs: then nobody is to think so."""
        move = self._move
        here, there = self._side(move.from_shard, "departed"), self._side(move.to_shard, "home")
        if any(resource.name == self._forth for resource in self._record.resources(move)):
            self._follow_back(here, there)
        try:
            replication.check(there, here, self._back)
        except (MoveFailed, MoveInterrupted) as error:
            self._record.refuse_undo(move, f"it cannot be undone any more: {error}")

    def _tidy(self) -> None:
        """Nothing more is to be undone: the copy where the store does not live goes."""
        move = self._move
        self._clear(loser=move.from_shard if move.state == "done" else move.to_shard)
        self._record.finish(move)

    def _clear(self, loser: str) -> None:
        """Remove all that the move has made, from what was registered. The store is, and stays, on the other shard."""
        move, record = self._move, self._record
        registered = record.resources(move)
        leaves: Standing = "arriving" if move.decided_epoch is None else "departed"
        sides = dict[str, Side]()
        # Its home first: writes pass there, also while the other one is away.
        for shard in sorted({resource.shard for resource in registered}, key=lambda shard: shard == loser):
            sides[shard] = side = self._side(shard, leaves if shard == loser else "home")
            if shard != loser:
                side.unblock()
        for kind in ("subscription", "slot", "publication"):
            for resource in registered:
                if resource.kind == kind:
                    self._drop(sides[resource.shard], kind, resource.name)
        copied = move.decided_epoch is not None or Resource(loser, "rows", move.store_id.hex) in registered
        if loser in sides and copied:
            self._delete_rows(sides[loser])
        for resource in registered:
            if resource.kind == "rows":
                record.forget(move, resource)
        for side in sides.values():
            side.forget()
            record.forget(move, Resource(side.shard, "mark", move.store_id.hex))

    def _delete_rows(self, side: Side) -> None:
        if self._record.home(self._move) == side.shard:
            raise MoveInterrupted(f"the shard map leads to {side.shard}: its rows stay")
        if self._move.decided_epoch is not None:
            side.depart()  # it may not have heard of the decision
        else:
            side.retract()
        for table in tables_of(side.connection):
            for where in slices(side.connection, table, self._move.store_id, lambda: SLICE_ROWS):
                self._check()
                with self._pace.slice() as work:
                    work.rows = DELETED * side.delete_batch(table, where)

    # Inside.

    def _look(self) -> None:
        """Whether to go on: raises `MoverReplaced`, or `MoveCancelled` where somebody wants the move taken back."""
        self._check()
        if self._record.read(self._move).undo_asked:
            raise MoveCancelled(_TAKEN_BACK)

    def _sometimes(self, report: Callable[..., None], look: Check | None = None) -> Callable[..., None]:
        """`report`, a few times a second; before it, whether to go on."""
        reported = 0.0

        def maybe(*figures: int) -> None:
            nonlocal reported
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                (look or self._look)()
                report(*figures)

        return maybe

    def _side(self, shard: str, standing: Standing) -> Side:
        """The store's side on a shard, claimed; `standing` is what it has where it had none."""
        connection = self._opened.enter_context(closing(self._servers.connect(self._map, shard)))
        side = Side(connection, shard, self._move, self._record.term)
        self._record.register(self._move, Resource(shard, "mark", self._move.store_id.hex))
        side.claim(standing)
        return side

    def _drop(self, side: Side, kind: Kind, name: str) -> None:
        with side.held():
            pass  # a mover that was replaced drops nothing
        replication.drop(side, kind, name)
        self._record.forget(self._move, Resource(side.shard, kind, name))
