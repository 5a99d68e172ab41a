"""One shard's side of a move: the store's standing there, and the writes that wait for it.

Whatever changes something here holds the row of the store in `moving_stores`, under this mover's term: a mover that was
replaced finds another term there, and nothing it still wants to do is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from psycopg.sql import SQL, Composable
from psycopg.sql import Literal as Quoted
from psycopg.types.json import Jsonb

from moves.errors import MoveFailed, MoveInterrupted, MoverReplaced
from moves.record import Move
from moves.tables import Table
from pools.connection import ShardConnection
from routing.token import Position

Standing = Literal["home", "blocked", "arriving", "departed"]

# Where the store has its row in `stores` it lives, whatever the move says: nothing arrives there.
_CLAIM = """
INSERT INTO moving_stores (id, move_id, term, standing)
SELECT %(store)s, %(move)s, %(term)s,
    CASE WHEN EXISTS (SELECT FROM stores WHERE store_id = %(store)s) THEN 'home' ELSE %(standing)s END
ON CONFLICT (id) DO UPDATE SET term = excluded.term
WHERE moving_stores.move_id = excluded.move_id AND moving_stores.term <= excluded.term
RETURNING standing
"""
_IS_OURS = "SELECT true FROM moving_stores WHERE id = %(store)s AND move_id = %(move)s"
_HOLD = "SELECT standing FROM moving_stores WHERE id = %(store)s AND move_id = %(move)s AND term = %(term)s FOR UPDATE"
_STAND = "UPDATE moving_stores SET standing = %(standing)s, until = NULL WHERE id = %(store)s"
_BLOCK = """
UPDATE moving_stores SET standing = 'blocked', until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE id = %(store)s
"""
_HOLD_BLOCK = """
UPDATE moving_stores SET until = 'infinity'
WHERE id = %(store)s AND standing = 'blocked' AND until > clock_timestamp()
RETURNING id
"""
_MARK = """
INSERT INTO move_marks (id, mark) VALUES (%(move)s, 1)
ON CONFLICT (id) DO UPDATE SET mark = move_marks.mark + 1
RETURNING mark
"""
_POSITION = "SELECT wal_timeline(), (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint"


class Side:
    """The store on one shard, over one connection."""

    def __init__(self, connection: ShardConnection, shard: str, move: Move, term: int) -> None:
        self.connection = connection
        self.shard = shard
        self.standing: Standing | None = None  # as it was when it was claimed
        self.values: Mapping[str, object] = {"store": move.store_id, "move": move.id, "term": term}

    def claim(self, standing: Standing) -> None:
        """Put the store under this move and mover, with this standing where it had none.

        Raises `MoverReplaced` where a later mover has claimed it, `MoveInterrupted` where another move has.
        """
        row = self.connection.execute(_CLAIM, {**self.values, "standing": standing}).fetchone()
        if row is None:
            if self.run(_IS_OURS, self.values):
                raise MoverReplaced(f"a later mover has the store on {self.shard}")
            raise MoveInterrupted(f"another move has the store on {self.shard}")
        self.standing = row[0]

    @contextmanager
    def held(self) -> Iterator[Standing]:
        """A transaction in which nobody else changes anything of this store's move here; the store's standing."""
        with self.connection.transaction():
            row = self.connection.execute(_HOLD, self.values).fetchone()
            if row is None:
                raise MoverReplaced(f"the store is in other hands on {self.shard}")
            yield row[0]

    def run(self, text: str | Composable, parameters: Mapping[str, object] | None = None) -> Any:
        """The first column of the first row, of one statement."""
        cursor = self.connection.execute(text, parameters)  # type: ignore[arg-type]  # literal, or composed
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    # Where the store lives.

    def block(self, seconds: float) -> None:
        """Have every write wait that begins from now on, for so long at most."""
        with self.held() as standing:
            if standing not in ("home", "blocked"):
                raise MoveInterrupted(f"the store is {standing} on {self.shard}, and cannot be blocked")
            self.run(_BLOCK, {**self.values, "seconds": seconds})

    def drain(self, seconds: float) -> None:
        """Wait for the writes that began before. Raises `LockNotAvailable` where they do not end."""
        with self.connection.transaction():
            self.run(SQL("SET LOCAL lock_timeout = {}").format(Quoted(f"{int(seconds * 1000)}ms")))
            self.run("SELECT pg_advisory_xact_lock(uuid_hash_extended(%(store)s, 0))", self.values)

    @contextmanager
    def without_writes(self, seconds: float) -> Iterator[None]:
        """No write of the store is under way: those that were have ended, and others wait. Raises `LockNotAvailable`
        where they do not end in time. Not for long: whoever waits holds a connection."""
        self.run(SQL("SET lock_timeout = {}").format(Quoted(f"{int(seconds * 1000)}ms")))
        try:
            self.run("SELECT pg_advisory_lock(uuid_hash_extended(%(store)s, 0))", self.values)
            try:
                yield
            finally:
                self.run("SELECT pg_advisory_unlock(uuid_hash_extended(%(store)s, 0))", self.values)
        finally:
            self.run("RESET lock_timeout")

    def hold_block(self) -> None:
        """Let the block last until somebody takes it away. Raises `MoveInterrupted` where it is over already: then
        writes may have passed."""
        with self.held():
            if self.run(_HOLD_BLOCK, self.values) is None:
                raise MoveInterrupted(f"the switch took longer than writers wait on {self.shard}")

    def unblock(self) -> None:
        """Let writes pass again."""
        with self.held() as standing:
            if standing == "blocked":
                self._stand("home")

    def depart(self) -> None:
        """The store lives elsewhere: nobody finds it here any more, by whatever map. Its other rows stay for now."""
        with self.held():
            self._without_triggers()  # which would miss the row that the others refer to
            self.run("DELETE FROM stores WHERE store_id = %(store)s", self.values)
            self._stand("departed")

    def write_mark(self) -> int:
        """Note in the log, behind all that was committed so far; the number that then appears on the other side."""
        with self.held():
            # It need not outlive this server: if it is lost, so is the slot through which it would arrive.
            self.run("SET LOCAL synchronous_commit = local")
            return int(self.run(_MARK, self.values))

    # Where it goes to.

    @contextmanager
    def copying(self) -> Iterator[None]:
        """A transaction in which rows of the store are written here as replication would."""
        with self.held():
            self._without_triggers()
            yield

    def mark(self) -> int:
        """The last mark that has arrived."""
        return int(self.run("SELECT mark FROM move_marks WHERE id = %(move)s", self.values) or 0)

    @contextmanager
    def holding_marks(self) -> Iterator[int]:
        """The next mark does not arrive, and whoever applies it stands before it; the process that is to blame."""
        with self.connection.transaction():
            self.run("SELECT mark FROM move_marks WHERE id = %(move)s FOR UPDATE", self.values)
            yield self.connection.info.backend_pid

    def home_row(self) -> Any:
        """The store's row in `stores`; None where it does not live here."""
        return self.run("SELECT to_jsonb(s) FROM stores AS s WHERE store_id = %(store)s", self.values)

    def prepare(self, home_row: Any) -> Position:
        """Be ready to be the store's home: all that was applied is confirmed by a replica. A position behind it.

        From here on reads find the store; writes do not pass. Raises `MoveFailed` where it does not become that row.
        """
        with self.held():
            self._without_triggers()
            self.run("DELETE FROM stores WHERE store_id = %(store)s", self.values)
            self.run(
                "INSERT INTO stores SELECT * FROM jsonb_populate_record(NULL::stores, %(row)s)",
                {"row": Jsonb(home_row)},
            )
            if self.home_row() != home_row:
                raise MoveFailed("the copies differ: stores: 1 row, of other content")
            self._stand("arriving")
        timeline, lsn = self.connection.execute(_POSITION).fetchone() or (0, 0)
        return Position(self.connection.system_identifier, timeline, lsn)

    def open(self, epoch: int) -> None:
        """Take writes, from maps of this epoch on."""
        with self.held():
            statement = "UPDATE stores SET epoch = %(epoch)s WHERE store_id = %(store)s RETURNING epoch"
            if self.run(statement, {**self.values, "epoch": epoch}) is None:
                raise MoveInterrupted(f"{self.shard} has lost the store's row")
            self._stand("home")

    def retract(self) -> None:
        """It does not come: what `prepare` did before the decision is taken back."""
        with self.held() as standing:
            if standing == "arriving":
                self._without_triggers()
                self.run("DELETE FROM stores WHERE store_id = %(store)s", self.values)

    # Afterwards.

    def delete_batch(self, table: Table, where: Composable) -> int:
        """Delete those of the store's rows that meet a condition; how many. Refused where the store lives here."""
        with self.held() as standing:
            if standing not in ("arriving", "departed"):
                raise MoveInterrupted(f"the store is {standing} on {self.shard}: its rows stay")
            self._without_triggers()
            self.run("SET LOCAL enable_seqscan = off")
            statement = SQL("DELETE FROM {} WHERE {}").format(table.identifier, where)
            return self.connection.execute(statement).rowcount

    def forget(self) -> None:
        """Nothing of the move is left here."""
        self.run("DELETE FROM move_marks WHERE id = %(move)s", self.values)
        self.run(
            "DELETE FROM moving_stores WHERE id = %(store)s AND move_id = %(move)s AND term = %(term)s",
            self.values,
        )

    def _stand(self, standing: Standing) -> None:
        self.run(_STAND, {**self.values, "standing": standing})

    def _without_triggers(self) -> None:
        """For this transaction, as replication itself does: foreign keys are not looked at."""
        self.run("SET LOCAL session_replication_role = replica")
