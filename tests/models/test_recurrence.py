"""The date that comes next by a rule."""

import cProfile
from datetime import date, datetime, time, timedelta
from functools import partial

import pytest
from dateutil.rrule import rrulestr
from hypothesis import assume, given
from hypothesis import strategies as st

from backend.models.recurrence import next_date, next_rule, normal_recurrence

TODAY = date(2026, 11, 26)  # a Thursday


@pytest.mark.parametrize(
    ("rule", "due", "expected"),
    [
        ("FREQ=DAILY", "2026-11-26", "2026-11-27"),
        ("FREQ=DAILY", "2030-12-31", "2031-01-01"),
        # The first that is not past everywhere on earth: yesterday in UTC is still today somewhere.
        ("FREQ=DAILY", "2026-11-24", "2026-11-25"),
        ("FREQ=DAILY", "2026-11-01", "2026-11-25"),
        ("FREQ=DAILY", "1900-01-01", "2026-11-25"),
        ("FREQ=DAILY;INTERVAL=3", "2026-11-20", "2026-11-26"),
        ("FREQ=DAILY;INTERVAL=999", "1900-01-01", "2028-07-21"),
        ("FREQ=DAILY;BYDAY=SA,SU", "2026-11-26", "2026-11-28"),
        ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=29", "2026-11-26", "2028-02-29"),
        ("FREQ=WEEKLY", "2026-11-26", "2026-12-03"),
        ("FREQ=WEEKLY", "2026-11-12", "2026-11-26"),
        ("FREQ=WEEKLY;BYDAY=MO,WE", "2026-11-23", "2026-11-25"),
        ("FREQ=WEEKLY;BYDAY=MO,WE", "2026-11-25", "2026-11-30"),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE", "2026-11-25", "2026-12-07"),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO", "2026-11-09", "2026-12-07"),
        # Months that lack the day are passed over (RFC 5545).
        ("FREQ=MONTHLY", "2027-01-31", "2027-03-31"),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", "2027-01-31", "2027-02-28"),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", "2028-01-31", "2028-02-29"),
        ("FREQ=MONTHLY;BYMONTHDAY=30,31", "2027-01-31", "2027-03-30"),
        ("FREQ=MONTHLY;BYDAY=1MO", "2026-12-07", "2027-01-04"),
        ("FREQ=MONTHLY;BYDAY=-1FR", "2026-11-27", "2026-12-25"),
        ("FREQ=MONTHLY;BYDAY=+5TU", "2026-12-29", "2027-03-30"),
        ("FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", "2026-11-13", "2027-08-13"),
        # Weekdays with a number and without one are joined.
        ("FREQ=MONTHLY;BYDAY=SU,2TU", "2026-12-01", "2026-12-06"),
        ("FREQ=MONTHLY;BYDAY=SU,2TU", "2026-12-06", "2026-12-08"),
        ("FREQ=MONTHLY;BYDAY=TH,-1TH", "2026-11-26", "2026-12-03"),
        ("FREQ=MONTHLY;INTERVAL=2;BYDAY=-1FR,MO", "2026-12-28", "2027-02-01"),
        ("FREQ=MONTHLY;BYDAY=MO,1FR;BYMONTHDAY=1", "2026-12-01", "2027-01-01"),
        ("FREQ=MONTHLY;BYDAY=8MO,FR", "2026-11-27", "2026-12-04"),
        ("FREQ=MONTHLY;BYDAY=MO,1FR;UNTIL=20261205", "2026-11-30", "2026-12-04"),
        ("FREQ=MONTHLY;BYDAY=MO,1FR;UNTIL=20261205", "2026-12-04", None),
        ("FREQ=YEARLY;BYMONTH=3;BYDAY=2SU,WE", "2027-03-03", "2027-03-10"),
        ("FREQ=YEARLY", "2028-02-29", "2032-02-29"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=-1", "2028-02-29", "2029-02-28"),
        ("FREQ=YEARLY;INTERVAL=2;BYMONTH=3;BYDAY=2SU", "2027-03-14", "2029-03-11"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", "2096-02-29", "2104-02-29"),
        ("FREQ=YEARLY;INTERVAL=999;BYMONTH=2;BYMONTHDAY=29", "2026-11-26", "4024-02-29"),
        ("FREQ=DAILY;UNTIL=20261128", "2026-11-27", "2026-11-28"),
        ("FREQ=DAILY;UNTIL=20261128", "2026-11-28", None),
        ("FREQ=DAILY;UNTIL=20261124", "2026-11-20", None),
        ("FREQ=DAILY;COUNT=1", "2026-11-26", "2026-11-27"),
        # What never comes is not looked for for long.
        ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "2026-11-26", None),
        ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;INTERVAL=2", "1900-01-01", None),
        ("FREQ=MONTHLY;BYMONTH=4,6;BYMONTHDAY=31,-31", "2026-11-26", None),
        ("FREQ=MONTHLY;BYDAY=6MO", "2026-11-26", None),
        ("FREQ=MONTHLY;BYDAY=8MO", "2026-01-05", None),
        ("FREQ=YEARLY;BYMONTH=2;BYDAY=51MO", "2026-01-05", None),
        ("FREQ=YEARLY;BYMONTH=12;BYDAY=8MO,-1MO,-53TU", "2026-01-05", "2026-12-28"),
        ("FREQ=YEARLY;BYDAY=51MO", "2026-01-05", "2026-12-21"),
        ("FREQ=WEEKLY;BYDAY=SA", "9999-12-31", None),
        ("FREQ=MONTHLY;INTERVAL=12;BYMONTH=2", "2026-11-26", None),
        ("FREQ=DAILY;INTERVAL=7;BYDAY=MO", "2026-11-26", None),
        ("FREQ=YEARLY", "9999-11-26", None),
        ("FREQ=DAILY", "9999-12-30", "9999-12-31"),
        ("FREQ=DAILY", "9999-12-31", None),
        ("FREQ=WEEKLY;INTERVAL=999", "9999-12-31", None),
    ],
)
def test_the_next_date(rule: str, due: str, expected: str | None) -> None:
    found = next_date(normal_recurrence(rule), date.fromisoformat(due), TODAY)
    assert found == (date.fromisoformat(expected) if expected else None)


@pytest.mark.parametrize(
    ("rule", "due", "most"),
    [
        ("FREQ=MONTHLY;BYMONTHDAY=31;BYDAY=-5MO", "2026-11-26", 300),
        ("FREQ=MONTHLY;BYMONTHDAY=-29;BYDAY=5MO,6TU", "2026-11-26", 300),
        ("FREQ=YEARLY;BYMONTH=4;BYMONTHDAY=15;BYDAY=2MO", "2026-11-26", 300),
        ("FREQ=MONTHLY;BYMONTHDAY=10;BYDAY=1MO,-1MO", "2026-11-26", 300),
        ("FREQ=MONTHLY;BYMONTH=2", "2027-01-31", 300),
        ("FREQ=MONTHLY;INTERVAL=2;BYMONTH=2", "2027-01-15", 300),
        ("FREQ=DAILY;INTERVAL=998;BYMONTHDAY=29", "2026-11-27", 33_000),  # 36,490 day by day; 29,306 since Python 3.13
    ],
)
def test_little_is_done_for_a_rule_that_never_comes(rule: str, due: str, most: int) -> None:
    look = partial(next_date.__wrapped__, rule, date.fromisoformat(due), TODAY)
    assert look() is None  # the first time regular expressions are compiled, too
    profile = cProfile.Profile()
    profile.runcall(look)
    assert sum(entry.callcount for entry in profile.getstats()) < most


weekdays = st.lists(st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"]), min_size=1, max_size=3, unique=True)
month_days = st.lists(st.sampled_from([1, 15, 28, 29, 30, 31, -1, -2, -31]), min_size=1, max_size=2, unique=True)
months = st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True)


@given(
    frequency=st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]),
    interval=st.sampled_from([1, 1, 2, 3, 7, 12]),
    parts=st.fixed_dictionaries({}, optional={"BYDAY": weekdays, "BYMONTHDAY": month_days, "BYMONTH": months}),
    due=st.dates(date(1990, 1, 1), date(2420, 12, 31)),
)
def test_what_bounds_the_search_changes_nothing(
    frequency: str, interval: int, parts: dict[str, list[object]], due: date
) -> None:
    """The search begins near its end, in another cycle of the calendar: dateutil's own, long, way finds the same."""
    assume(not (frequency == "WEEKLY" and "BYMONTHDAY" in parts))
    rule = normal_recurrence(
        f"FREQ={frequency};INTERVAL={interval}"
        + "".join(f";{name}={','.join(map(str, values))}" for name, values in parts.items())
    )
    found = next_date(rule, due, TODAY)
    after = max(due, TODAY - timedelta(days=2))
    if found is None or found.year > after.year + 30:
        return  # it would take seconds
    plain = rrulestr(rule, dtstart=datetime.combine(due, time()))
    expected = plain.after(datetime.combine(after, time()))
    assert expected is not None
    assert found == expected.date()


@given(
    frequency=st.sampled_from(["MONTHLY", "YEARLY"]),
    days=st.lists(
        st.tuples(st.integers(-53, 53).filter(bool), st.sampled_from(["MO", "WE", "SU"])), min_size=1, max_size=3
    ),
    parts=st.fixed_dictionaries({}, optional={"BYMONTHDAY": month_days, "BYMONTH": months}),
    due=st.dates(date(1900, 1, 1), date(9999, 12, 31)),
)
def test_no_number_of_a_weekday_makes_an_error(
    frequency: str, days: list[tuple[int, str]], parts: dict[str, list[object]], due: date
) -> None:
    """dateutil fails where a month has no such weekday: the task could never be completed."""
    by_day = ",".join(f"{number}{day}" for number, day in days)
    more = "".join(f";{name}={','.join(map(str, values))}" for name, values in parts.items())
    found = next_date(normal_recurrence(f"FREQ={frequency};BYDAY={by_day}{more}"), due, TODAY)
    assert found is None or found > due


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=DAILY", "FREQ=DAILY"),
        ("FREQ=DAILY;UNTIL=20261128", "FREQ=DAILY;UNTIL=20261128"),
        ("FREQ=DAILY;COUNT=999", "FREQ=DAILY;COUNT=998"),
        ("COUNT=2;FREQ=DAILY", "COUNT=1;FREQ=DAILY"),
        ("FREQ=DAILY;COUNT=1", None),
    ],
)
def test_the_next_rule_counts_down(rule: str, expected: str | None) -> None:
    assert next_rule(rule) == expected


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("FREQ=HOURLY", "FREQ must be DAILY, WEEKLY, MONTHLY or YEARLY"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL must be 1 to 999"),
        ("FREQ=DAILY;UNTIL=20261231T000000Z", "UNTIL must be a date such as 20261231"),
    ],
)
def test_a_refusal_says_what_a_part_may_be(rule: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        normal_recurrence(rule)
