"""The command line, `flask --app app COMMAND`: each says in one line what it did, or why not."""

from __future__ import annotations

from flask import Flask

from commands.flags import flags_group
from commands.seed import seed_command
from commands.shards import shards_group


def init_app(app: Flask) -> None:
    """Register every command."""
    app.cli.add_command(shards_group)
    app.cli.add_command(flags_group)
    app.cli.add_command(seed_command)
