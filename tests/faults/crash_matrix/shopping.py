"""A client of one store: orders, each with an idempotency key and again until it is taken, and reads what was taken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from uuid import UUID, uuid4

from lab.wire import Answer, DroppedError, Wire

# Longer than a request is patient, whatever is frozen.
TIMEOUT_SECONDS = 12.0
PAUSE_SECONDS = 0.1
_CREATED, _OK, _TOLD_TO_WAIT, _UNAVAILABLE = 201, 200, 409, 503


@dataclass(frozen=True, slots=True)
class Store:
    id: UUID
    key: str
    product_id: str

    @property
    def path(self) -> str:
        return f"/v1/stores/{self.id}"


class Client:
    """A thread that orders one of the store's product at a time, from `start` until `stop`."""

    def __init__(self, address: str, store: Store) -> None:
        self.store = store
        self.placed: dict[str, str] = {}  # key -> order, acknowledged
        self.placed_at = 0.0  # when the last of them was asked for first, by the monotonic clock
        self.slowest = 0.0  # of all answers, in seconds
        self.told: Counter[str] = Counter()  # answers and silences that leave the client to try again
        self.wrong: list[str] = []  # what no client should ever hear
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """It returns when the order under way has been taken, or refused for good."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        # Another worker's turn now and then.
        with Wire(self._address, lasts=10, timeout_seconds=TIMEOUT_SECONDS) as wire:
            while not self._over.wait(PAUSE_SECONDS):
                self._order(wire, uuid4().hex)

    def _order(self, wire: Wire, key: str) -> None:
        began = time.monotonic()
        body = {"items": [{"product_id": self.store.product_id, "quantity": 1}]}
        answer = self._insist(wire, "POST", f"{self.store.path}/orders", key, body)
        if answer is None:
            return
        self.placed[key] = answer.document["id"]
        self.placed_at = began
        self._insist(wire, "GET", f"{self.store.path}/orders/{self.placed[key]}", None, None)

    def _insist(self, wire: Wire, method: str, path: str, key: str | None, body: object) -> Answer | None:
        """The good answer, however often it takes; None where it was another one than "try again"."""
        headers = {"Authorization": f"Bearer {self.store.key}"}
        if key:
            headers["Idempotency-Key"] = key
        while True:
            began = time.monotonic()
            try:
                answer = wire.request(method, path, headers, body)
            except DroppedError as error:
                self.told["timeout" if "timed out" in str(error) else "dropped"] += 1
                continue
            finally:
                self.slowest = max(self.slowest, time.monotonic() - began)
            if answer.status in (_CREATED, _OK):
                return answer
            is_told = answer.status == _UNAVAILABLE or (
                answer.status == _TOLD_TO_WAIT and "retry-after" in answer.headers
            )
            if not is_told:
                self.wrong.append(f"{method} {path}: {answer.status} {answer.body.decode()}")
                return None
            self.told[str(answer.status)] += 1
            time.sleep(PAUSE_SECONDS)
