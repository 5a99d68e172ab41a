"""A holder that sleeps past its lease, wakes, and does what the lock was for: the next holder has done it already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import config
from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground, Shop, new_key
from lab.picture import bars

LOCKS = 10
# Short, to be slept past; long enough that on a busy machine who is awake commits in time.
LEASE_SECONDS = 2.0


class Holder:
    """A process of lab/lock_holder.py, which ends with the experiment."""

    def __init__(self, ground: Ground, kind: str, shop: Shop, product: str, prefix: str) -> None:
        command = [sys.executable, "-m", "lab.lock_holder", kind, shop.store_id, product, prefix, str(LOCKS)]
        environment = {"VAR": str(ground.servers.var), "LOCK_TTL_SECONDS": str(LEASE_SECONDS)}
        self.process = subprocess.Popen(
            command,
            cwd=config.ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ground.undo.callback(self._end)

    def hear(self) -> str:
        """Its next word. Raises `SystemExit` where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"a holder ended with {self.process.wait()}")
        return line

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def outcomes(self) -> dict[str, int]:
        """Have it place its orders and end."""
        self.tell()
        found: dict[str, int] = json.loads(self.hear())
        self.process.wait()
        return found

    def _end(self) -> None:
        self.process.kill()  # also where it is stopped
        self.process.communicate()


def _slept(ground: Ground, *, kind: str) -> Figures:
    """Forced: the first holder is stopped (SIGSTOP) once it has all locks, until the next one has used them."""
    shop = ground.new_shop()
    product, prefix = ground.new_product(shop, stock=1000), f"lab:{new_key()}:"
    ground.redis()  # its keys go with the experiment
    sleeper, successor = (Holder(ground, kind, shop, product, prefix) for _ in range(2))
    for holder in (sleeper, successor):
        holder.hear()
    sleeper.tell()
    sleeper.hear()
    sleeper.process.send_signal(signal.SIGSTOP)
    successor.tell()
    successor.hear()
    after = successor.outcomes()
    sleeper.process.send_signal(signal.SIGCONT)
    slept = sleeper.outcomes()
    return {
        "committed_too_late": slept.get("committed", 0),
        "refused": slept.get("refused", 0),
        "committed_by_the_next": after.get("committed", 0),
        "locks": LOCKS,
        "lease_seconds": LEASE_SECONDS,
    }


def _way(kind: str) -> Callable[[Ground], Figures]:
    return partial(_slept, kind=kind)


EXPERIMENT = Experiment(
    name="lock-fencing",
    shows="a holder that slept past its lease cannot commit",
    story=(
        "A process takes ten locks, each for one order, and is stopped before it places them: a long pause of its"
        " machine. The leases run out, another takes the locks and places the orders, and the first one wakes. It"
        " knows of no pause, and places its own: with one server's SET NX PX, and as well with the quorum's lock, for"
        " how well a lock is granted says nothing of when its holder wakes. Here the write carries when the lock was"
        " asked for and how long it lasts, and PostgreSQL refuses to commit it when that is over by its own clock. So"
        " the lock only saves work; the check in the transaction is what keeps two from doing it."
    ),
    figure="committed_too_late",
    naive=(
        Variant("SET NX PX on one server", _way("plain")),
        Variant("a quorum of three, unchecked", _way("quorum")),
    ),
    cure=Variant("checked by PostgreSQL", _way("fenced")),
    held=lambda without, cured: without == LOCKS and cured == 0,
    picture=bars("committed_too_late", "orders under a lease that was over"),
)
