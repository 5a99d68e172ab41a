"""The command line, `flask --app app COMMAND`: each says in one line what it did, or why not."""

from __future__ import annotations

import click
from flask import Flask

from commands.flags import flags_group
from commands.lab import lab_command
from commands.seed import seed_command
from commands.shards import shards_group


def init_app(app: Flask) -> None:
    """Register every command."""
    app.cli.add_command(shards_group)
    app.cli.add_command(flags_group)
    app.cli.add_command(seed_command)
    app.cli.add_command(lab_command)


def are_looked_up() -> bool:
    """Whether `flask` only wants to know the commands: to list them, to show help, or to run one of them.

    Not so for `flask run` and `flask shell`, which are Flask's own and need the service: those load it from
    inside.
    """
    context = click.get_current_context(silent=True)
    return context is not None and context.parent is None
