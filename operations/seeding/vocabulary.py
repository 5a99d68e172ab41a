"""The words a seeded shop is written with: made once with Faker, then combined.

Faker needs some 20 to 100 microseconds a phrase, and a million products need several each. So it makes a few
thousand names and phrases at the start of a run, and rows only draw from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Enough that two products of one page hardly ever share a phrase; Faker makes all of it in about 0.1 s.
_PHRASES = 2_000
_NAMES = 1_000
_STORE_NAMES = 500

# Faker has no shop's goods. 24 materials times 40 things times Faker's 130 colours: some 125,000 titles.
MATERIALS = (
    "Oak", "Walnut", "Bamboo", "Cotton", "Linen", "Wool", "Leather", "Steel", "Copper", "Brass", "Ceramic",
    "Glass", "Marble", "Granite", "Cork", "Felt", "Silk", "Canvas", "Rattan", "Slate", "Porcelain", "Velvet",
    "Denim", "Titanium",
)  # fmt: skip
THINGS = (
    "Lamp", "Chair", "Desk", "Bookshelf", "Teapot", "Mug", "Bowl", "Cutting Board", "Knife", "Candle Holder",
    "Vase", "Mirror", "Clock", "Blanket", "Cushion", "Rug", "Backpack", "Wallet", "Watch Strap", "Notebook",
    "Pen", "Bicycle Bell", "Water Bottle", "Lunch Box", "Umbrella", "Scarf", "Gloves", "Hat", "Jacket",
    "Shirt", "Boots", "Sandals", "Headphones", "Speaker", "Keyboard Tray", "Phone Stand", "Plant Pot",
    "Watering Can", "Bird Feeder", "Toolbox",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every word is written as COPY's text format wants it."""

    colours: tuple[str, ...]
    phrases: tuple[str, ...]
    names: tuple[str, ...]
    store_names: tuple[str, ...]


def make_vocabulary(random_seed: int) -> Vocabulary:
    """The same seed makes the same words, as long as Faker's version stays (requirements/ pins it)."""
    from faker import Faker  # noqa: PLC0415 - a sixth of the time that every other command takes to start

    fake = Faker("en_US")
    fake.seed_instance(random_seed)
    return Vocabulary(
        colours=_distinct(fake.color_name, 400),
        phrases=_distinct(fake.catch_phrase, _PHRASES),
        names=_distinct(lambda: f"{fake.first_name()} {fake.last_name()}", _NAMES),
        store_names=_distinct(fake.company, _STORE_NAMES),
    )


def copy_text(value: str) -> str:
    """One field of COPY's text format (PostgreSQL manual, COPY, "Text Format")."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _distinct(make: Callable[[], str], tries: int) -> tuple[str, ...]:
    """In the order they were first made; a set's order differs from one process to the next."""
    return tuple(dict.fromkeys(copy_text(make()) for _ in range(tries)))
