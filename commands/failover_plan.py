"""What makes a failover safe, worked out from what the nodes said: no connection, no clock.

A commit is acknowledged when k of the standbys in synchronous_standby_names have it. Take N of them, the voters, of
which N - k + 1 can no longer hear the old primary. Any k voters include one of these, so whichever of these has got
furthest has every commit that was ever acknowledged, and no further one can be: fewer than k are left to confirm it.

Source: https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from errors import ConfigurationError
from routing.lineage import Lineage, Verdict
from routing.token import Position

# A quoted name, a bare name, a number, punctuation; as PostgreSQL's own scanner has them.
_TOKEN = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\W\d][\w$]*)|(\d+)|([*(),]))')
_ANYBODY = "*"


@dataclass(frozen=True, slots=True)
class Quorum:
    """Whom a commit waits for: so many of these, by the names under which they connect, in lower case.

    FIRST counts as ANY: where the first ones are away, the next confirm in their place.
    """

    needed: int
    names: frozenset[str]

    @property
    def counts_anybody(self) -> bool:
        """Whether standbys may confirm that the setting does not name."""
        return _ANYBODY in self.names

    @classmethod
    def parse(cls, setting: str) -> Quorum | None:
        """From synchronous_standby_names; None where a commit waits for nobody. Raises `ConfigurationError`."""
        tokens = list(_tokens(setting))
        needed = 1
        if tokens and tokens[0] in (("word", "any"), ("word", "first")):
            tokens.pop(0)
        if [kind for kind, _ in tokens[:2]] == ["number", "("]:
            needed = int(tokens[0][1])
            tokens = tokens[2:-1]
        return cls(needed, frozenset(text for kind, text in tokens if kind != ",")) if tokens else None


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a replica has got. `position` is what it has on its disk, replayed or not.

    `votes_as` is the name under which it confirms commits. `cut_off`: it hears the old primary no more. `counted`:
    the position includes all that it had when it was started, which is not so while it still replays that.
    """

    node: str
    votes_as: str
    position: Position
    replayed: int
    cut_off: bool = True
    counted: bool = True

    @property
    def reach(self) -> tuple[int, int]:
        """What to compare; across timelines only where a `Lineage` says so."""
        return self.position.timeline, self.position.lsn


def furthest(standings: Sequence[Standing]) -> Standing:
    """The replica to promote: the newest timeline, the most of it, the most of that replayed, then by name."""
    return min(standings, key=lambda one: (*(-part for part in one.reach), -one.replayed, one.node))


def unproven(
    settings: Mapping[str, str],
    standings: Sequence[Standing],
    best: Standing,
    lineage: Lineage,
    old_primaries: Collection[str],
) -> str | None:
    """Why it is not certain that `best` has every acknowledged commit; None where it is.

    `settings` is synchronous_standby_names by node, `lineage` that of the best one's timeline, `old_primaries` the
    names of the nodes of which one may be the old primary: every one has to give the same result.
    """
    texts = set(settings.values())
    if len(texts) > 1:
        said = "; ".join(f"{node}: {text or 'empty'}" for node, text in sorted(settings.items()))
        return f"the nodes do not agree on synchronous_standby_names ({said})"
    quorum = Quorum.parse(texts.pop())
    if quorum is None:
        return "synchronous_standby_names is empty, so the old primary confirmed commits all by itself"
    if quorum.counts_anybody:
        return "synchronous_standby_names counts any standby (*), also those that the shard map does not know"
    reasons = {one.votes_as.lower(): _objection(one, best, lineage) for one in standings}
    for old_primary in sorted(old_primaries) or [""]:
        if reason := _too_few(quorum, old_primary, reasons):
            return reason
    return None


def followers_missing(setting: str, best: Standing, followers: Sequence[Standing]) -> int:
    """How many replicas more the best one would need, once promoted, for its commits to be confirmed."""
    quorum = Quorum.parse(setting)
    if quorum is None:
        return 0
    known = {one.votes_as.lower() for one in followers if one.cut_off} - {best.votes_as.lower()}
    voters = known if quorum.counts_anybody else known & quorum.names
    return max(0, quorum.needed - len(voters))


def lsn_text(position: int) -> str:
    """As PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def _too_few(quorum: Quorum, old_primary: str, reasons: Mapping[str, str | None]) -> str | None:
    voters = quorum.names - {old_primary.lower()}
    required = max(1, len(voters) - quorum.needed + 1)
    heard = sorted(name for name in voters if name in reasons and reasons[name] is None)
    if len(heard) >= required:
        return None
    absent = [f"{name} {reasons.get(name) or 'does not answer'}" for name in sorted(voters.difference(heard))]
    return (
        f"a commit was confirmed by {quorum.needed} of {', '.join(sorted(voters))}, so {required} of them must be "
        f"heard to be sure that one has it, and {len(heard)} can be: {', '.join(absent)}"
    )


def _objection(one: Standing, best: Standing, lineage: Lineage) -> str | None:
    """Why a voter does not count as heard."""
    if not one.cut_off:
        return "does not let go of the old primary"
    if not one.counted:
        return "still replays what it has on its disk"
    if one.reach > best.reach or lineage.judge(one.position) is not Verdict.KEPT:
        return f"has what {best.node} does not have"
    return None


def _tokens(setting: str) -> Iterator[tuple[str, str]]:
    """Kind and text. A quoted "any" is a name, a bare one is not; a * is the same in quotes or not."""
    end = len(setting.rstrip())
    at = 0
    while at < end:
        match = _TOKEN.match(setting, at)
        if match is None:
            raise ConfigurationError(f"synchronous_standby_names is not understood: {setting}")
        quoted, word, number, mark = match.groups()
        if quoted is not None:
            yield "name", quoted.replace('""', '"').lower()
        elif word is not None:
            yield "word", word.lower()
        elif number is not None:
            yield "number", number
        else:
            yield ("name" if mark == _ANYBODY else mark), mark
        at = match.end()
