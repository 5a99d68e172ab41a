"""Lua scripts of `ephemeral/lua/`, as the commands that run them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A command without its client library: its name, then its arguments. The first of those is a key, if it has any.
Command = tuple[str | bytes | int, ...]

_LUA = Path(__file__).parent / "lua"


class Script:
    """One script: sent by its SHA, or whole to a server that does not know it (any more)."""

    def __init__(self, name: str) -> None:
        self.text = (_LUA / f"{name}.lua").read_text(encoding="utf-8")
        self._sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], *arguments: str | bytes | int) -> Call:
        return Call(self, (len(keys), *keys, *arguments))

    def command(self, called: Command, *, whole: bool) -> Command:
        return ("EVAL", self.text, *called) if whole else ("EVALSHA", self._sha, *called)


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its keys and arguments. All keys share a hash tag, so on a Redis Cluster they are on one node."""

    script: Script
    called: Command

    def command(self, *, whole: bool = False) -> Command:
        """`EVALSHA ...`, or `EVAL ...` with the script's text."""
        return self.script.command(self.called, whole=whole)
