"""Makes `.venv` and installs pinned requirements into it. Runs on the system's Python, without any package.

    python3 devcluster/bootstrap_venv.py runtime.txt speed.txt

Each argument is a file of requirements/. What was installed is remembered by the file's hash, so that a second
run costs nothing. speed.txt is optional: what it holds needs a C compiler, and only makes the service faster.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OPTIONAL = "speed.txt"
# Exits with 0 where this Python is one that can be used, and has pip.
_PROBE = "import pip, sys; sys.exit(sys.version_info < (3, 11))"


def main(names: list[str]) -> int:
    try:
        # Two copies with different VAR may be started from one folder at the same moment.
        with open(ROOT / "requirements" / names[0]) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _make_venv()
            for name in names:
                _install(ROOT / "requirements" / name)
    except subprocess.CalledProcessError:
        print("make: installing the requirements failed: pip's reason stands above", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    return 0


def _make_venv() -> None:
    """Make it where it is missing or half-made, or where its Python is gone."""
    if PYTHON.exists():
        probe = subprocess.run([PYTHON, "-c", _PROBE], capture_output=True, check=False)
        if probe.returncode == 0:
            return
    print(f"making .venv with Python {sys.version_info.major}.{sys.version_info.minor}", flush=True)
    venv.create(VENV, clear=True, with_pip=True)


def _install(requirements: Path) -> None:
    optional = requirements.name == OPTIONAL
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = VENV / f"{requirements.stem}.installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not optional:
        print(f"installing requirements/{requirements.name}", flush=True)
    install = [str(PYTHON), "-m", "pip", "install", "-qq", "--no-deps", "--require-hashes", "--no-input"]
    options = ["--disable-pip-version-check", "--no-warn-script-location", "--requirement", str(requirements)]
    subprocess.run([*install, *options], cwd=ROOT, capture_output=optional, check=not optional)
    # An optional file counts as done either way: a machine without a compiler is not asked at every start.
    stamp.write_text(wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
