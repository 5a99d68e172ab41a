"""The service, whose workers start movers that can be made to stand still."""

from __future__ import annotations

from flask import Flask

from app import create_app
from moves import process


def create() -> Flask:
    process.MOVER = "tests.faults.crash_matrix.mover"
    return create_app()
