"""The file of demo merchant keys: a line of JSON a store, readable for its owner only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from operations.seeding.load import SeedError


def write_keys(path: Path, keys: Mapping[UUID, str]) -> None:
    """Add a line for each store; lines of other stores stay. The file is whole at every moment.

    Raises `SeedError` where the file cannot be written, or holds something else than such lines.
    """
    try:
        lines = {**_read(path), **{str(store_id): key for store_id, key in keys.items()}}
        temporary = path.with_name(f"{path.name}.new")
        temporary.unlink(missing_ok=True)
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            for store_id, key in lines.items():
                file.write(json.dumps({"store_id": store_id, "api_key": key}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise SeedError(f"{path} cannot be written: {error.strerror}. Nothing was seeded") from error


def _read(path: Path) -> dict[str, str]:
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {entry["store_id"]: entry["api_key"] for entry in entries}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError) as error:
        raise SeedError(f"{path} does not hold merchant keys: nothing was seeded") from error
