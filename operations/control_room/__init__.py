"""What the control room shows: one document of the whole service at one moment, whichever worker is asked."""

from operations.control_room.room import ControlRoom

__all__ = ["ControlRoom"]
