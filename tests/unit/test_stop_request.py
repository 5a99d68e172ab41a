"""The supervisor's wait for a signal: one that comes at any moment is heard, and never stops it for good."""

from __future__ import annotations

import subprocess
import sys

# A signal's handler runs between any two steps of the thread it interrupts: here, between all of them.
EVERYWHERE = """
import sys
from devcluster.supervisor import StopRequest

request, handling = StopRequest(), False

def handle_before_each_line(frame, event, argument):
    global handling
    if not handling:
        handling = True
        request.set()
        handling = False
    return handle_before_each_line

assert not request.wait(0.001)
sys.settrace(handle_before_each_line)
heard = request.wait(5)
sys.settrace(None)
print(heard, request.wait(5))
"""


def test_a_signal_at_any_moment_of_a_wait_is_heard() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", EVERYWHERE], capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout.split() == ["True", "True"]
