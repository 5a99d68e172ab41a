from __future__ import annotations

from routing.lag import LogEnd


def history(*samples: tuple[int, float]) -> LogEnd:
    """(position, second) each."""
    history = LogEnd()
    for lsn, second in samples:
        history.record(lsn, second)
    return history


def test_a_replica_of_a_primary_never_seen_is_of_unknown_lag_and_not_of_none() -> None:
    assert LogEnd().lag(100, 5.0, now=10.0) == (None, None)


def test_a_replica_that_has_everything_is_not_late_however_long_the_primary_has_been_idle() -> None:
    idle = history((100, 1.0), (100, 2.0), (100, 3600.0))

    assert idle.lag(100, transaction_age=3600.0, now=3601.0) == (0, 0.0)


def test_a_replica_is_as_late_as_the_primary_has_been_past_its_position() -> None:
    busy = history((100, 1.0), (200, 2.0), (300, 3.0), (300, 9.5))

    assert busy.lag(100, transaction_age=None, now=10.0) == (200, 8.0)
    assert busy.lag(250, transaction_age=None, now=10.0) == (50, 7.0)


def test_a_write_after_a_long_pause_does_not_make_the_replica_late_by_the_pause() -> None:
    woken = history((100, 1.0), (200, 3600.0))

    assert woken.lag(100, transaction_age=3600.0, now=3600.5) == (100, 0.5)


def test_a_replica_further_behind_than_anyone_remembers_is_late_by_its_last_transaction() -> None:
    assert history((1000, 50.0)).lag(10, transaction_age=400.0, now=51.0) == (990, 400.0)


def test_a_replica_sampled_after_the_primary_is_ahead_of_the_sample_and_not_late() -> None:
    assert history((100, 1.0)).lag(150, transaction_age=0.0, now=2.0) == (0, 0.0)


def test_a_new_primary_behind_the_old_one_starts_a_new_history() -> None:
    failed_over = history((500, 1.0), (400, 2.0), (450, 3.0))

    assert failed_over.lag(400, transaction_age=None, now=4.0) == (50, 1.0)


def test_without_news_of_the_primary_lag_is_unknown_also_of_a_replica_that_had_everything() -> None:
    assert history((100, 1.0)).lag(100, transaction_age=0.0, now=60.0) == (None, None)
