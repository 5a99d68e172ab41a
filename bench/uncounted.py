"""The service without its counters by store, for `bench/load_cost.py` to compare with."""

from __future__ import annotations

from flask import Flask

import app
from operations.load import WorkerLoad
from routing.scope import Scope


def create_app() -> Flask:
    def count(_load: WorkerLoad, _scope: Scope) -> None:
        """Nobody counts."""

    WorkerLoad.count = count  # type: ignore[assignment, method-assign]
    WorkerLoad.report = lambda _load: None  # type: ignore[assignment, method-assign]
    return app.create_app()
