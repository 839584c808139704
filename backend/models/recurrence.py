"""Recurrence rules: which RRULEs (RFC 5545, section 3.3.10) a task may have, and the date that comes next.

python-dateutil reads the rule; what is here bounds the work that a rule can make.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from functools import lru_cache

from dateutil.rrule import rrule, rrulestr

MAX_RECURRENCE = 500
"""Characters of a rule. The longest that means something has under 400."""
HORIZON = 100
"""Years, and 8 times the interval, in which the next date must come. What takes longer comes never."""
_PER_YEAR = {"DAILY": 365, "WEEKLY": 52, "MONTHLY": 12, "YEARLY": 1}
_CYCLE_YEARS = 400
_CYCLE = timedelta(days=146_097)
"""The calendar repeats after 400 years, weekdays included."""
_SHORTEST_MONTH = 28
_LENGTHS = {month: {28, 29} if month == 2 else {30} if month in {4, 6, 9, 11} else {31} for month in range(1, 13)}

_WEEKDAY = "(?:MO|TU|WE|TH|FR|SA|SU)"
_NUMBERED = rf"[+-]?(?:[1-9]|[1-4]\d|5[0-3]){_WEEKDAY}"
_MONTHDAY = r"[+-]?(?:[1-9]|[12]\d|3[01])"


def _list(value: str) -> str:
    return rf"{value}(?:,{value})*"


_PARTS = {
    "FREQ": ("DAILY|WEEKLY|MONTHLY|YEARLY", "DAILY, WEEKLY, MONTHLY or YEARLY"),
    "INTERVAL": (r"[1-9]\d{0,2}", "1 to 999"),
    "BYDAY": (_list(f"(?:{_NUMBERED}|{_WEEKDAY})"), "weekdays such as MO,TU or -1FR"),
    "BYMONTHDAY": (_list(_MONTHDAY), "days from 1 to 31, or -1 to -31"),
    "BYMONTH": (_list("(?:[1-9]|1[0-2])"), "months from 1 to 12"),
    "COUNT": (r"[1-9]\d{0,2}", "1 to 999"),
    "UNTIL": (r"\d{8}", "a date such as 20261231"),
}
"""Each part's form, and what to say of another."""


def normal_recurrence(text: str) -> str:
    """Return the rule in upper case without `RRULE:`. Raises `ValueError` with the reason for one that is not taken."""
    if not text.isascii():  # in upper case some other letters are ASCII's
        raise ValueError("must be ASCII")
    if len(text) > MAX_RECURRENCE:
        raise ValueError(f"must have at most {MAX_RECURRENCE} characters")
    rule = text.strip().upper().removeprefix("RRULE:")
    parts = _parts(rule)
    if "FREQ" not in parts:
        raise ValueError("must have a FREQ")
    if "COUNT" in parts and "UNTIL" in parts:
        raise ValueError("must not have COUNT and UNTIL together")
    if parts["FREQ"] in {"DAILY", "WEEKLY"} and re.search(r"\d", parts.get("BYDAY", "")):
        raise ValueError("a number in BYDAY needs FREQ=MONTHLY or FREQ=YEARLY")
    if parts["FREQ"] == "WEEKLY" and "BYMONTHDAY" in parts:
        raise ValueError("BYMONTHDAY does not go with FREQ=WEEKLY")
    try:
        if "UNTIL" in parts:
            date.fromisoformat(parts["UNTIL"])
        _dates(parts, date(2026, 1, 1))
    except ValueError:
        raise ValueError("is no rule of RFC 5545") from None
    return rule


def _parts(rule: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in rule.split(";"):
        name, _, value = part.partition("=")
        if name not in _PARTS or name in parts:
            raise ValueError(f"takes {', '.join(_PARTS)}, each once")
        form, words = _PARTS[name]
        if re.fullmatch(form, value, re.ASCII) is None:
            raise ValueError(f"{name} must be {words}")
        parts[name] = value
    return parts


def _in_month(parts: Mapping[str, str]) -> bool:
    """Tell whether a weekday's number is one of the month, not of the year."""
    return parts["FREQ"] == "MONTHLY" or "BYMONTH" in parts


def _possible(parts: dict[str, str]) -> dict[str, str]:
    """Return the rule without the weekdays that no month has, such as an eighth Monday: dateutil fails at them."""
    if "BYDAY" in parts and _in_month(parts):
        days = (day for day in parts["BYDAY"].split(",") if re.search(r"[6-9]|\d\d", day) is None)
        return parts | {"BYDAY": ",".join(days)}
    return parts


def _of_one_kind(parts: dict[str, str]) -> list[dict[str, str]]:
    """Return the rule once with its plain weekdays and once with its numbered ones.

    RFC 5545 joins the days of BYDAY; dateutil takes only what is of both kinds.
    """
    days = parts.get("BYDAY", "").split(",")
    kinds = [",".join(kind) for kind in ([d for d in days if d.isalpha()], [d for d in days if not d.isalpha()])]
    return [parts | {"BYDAY": kind} for kind in kinds] if all(kinds) else [parts]


def _has_day(parts: Mapping[str, str], due: date) -> bool:
    """Tell whether a month can have such a day: 30 February, or a fifth Monday on the 3rd, is looked for for long."""
    months = {int(month) for month in parts["BYMONTH"].split(",")} if "BYMONTH" in parts else set(_LENGTHS)
    if parts["FREQ"] == "MONTHLY":
        interval = int(parts.get("INTERVAL", 1))
        months &= {(due.month - 1 + number * interval) % 12 + 1 for number in range(12)}
    lengths = {length for month in months for length in _LENGTHS[month]}
    return any(_month_days(parts, due, length) & _weekdays(parts, length) for length in lengths)


def _month_days(parts: Mapping[str, str], due: date, length: int) -> set[int]:
    """Return the days that a month of this length has by BYMONTHDAY, or by the date of the first."""
    days = set(range(1, length + 1))
    if "BYMONTHDAY" in parts:
        return days & {_from_start(int(day), length) for day in parts["BYMONTHDAY"].split(",")}
    return days & {due.day} if parts["FREQ"] in {"MONTHLY", "YEARLY"} and "BYDAY" not in parts else days


def _weekdays(parts: Mapping[str, str], length: int) -> set[int]:
    """Return the days of a month of this length on which one of BYDAY's weekdays can be."""
    days = set(range(1, length + 1))
    numbers = [int(day[:-2] or 0) for day in parts.get("BYDAY", "MO").split(",")]
    if 0 in numbers or not _in_month(parts):
        return days
    # The second Monday is one of the 8th to the 14th, the last but one of the 14th last to the 8th last.
    return {_from_start(7 * n - day if n > 0 else 7 * n + day, length) for n in numbers for day in range(7)}


def _from_start(day: int, length: int) -> int:
    return day if day > 0 else length + 1 + day


def _by_month(parts: Mapping[str, str]) -> bool:
    """Tell whether a daily rule's days are looked for month by month: up to thirty times as fast as by short steps."""
    by_day = not {"BYDAY", "BYMONTHDAY"}.isdisjoint(parts)
    return parts["FREQ"] == "DAILY" and by_day and int(parts.get("INTERVAL", 1)) < _SHORTEST_MONTH


def _dates(parts: Mapping[str, str], start: date) -> rrule:
    """Return all dates of a rule from `start` on, without regard to COUNT and UNTIL; of `_by_month` ones some more."""
    endless = {name: value for name, value in parts.items() if name not in {"COUNT", "UNTIL"}}
    if _by_month(parts):
        endless |= {"FREQ": "MONTHLY", "INTERVAL": "1"}
    line = ";".join(f"{name}={value}" for name, value in endless.items())
    dates = rrulestr(line, dtstart=datetime.combine(start, time()))
    assert isinstance(dates, rrule)  # noqa: S101 # one line makes one rule
    return dates


@lru_cache(maxsize=1000)  # many tasks have the same rule, and to find a date can take 12 ms
def next_date(rule: str, due: date, today: date) -> date | None:
    """Return the rule's first date after `due` that is not past everywhere on earth; None where there is none.

    `today` is the date in UTC: yesterday's is still today somewhere. COUNT is not looked at: `next_rule` counts.
    """
    found = [_next_date(parts, due, today) for parts in _of_one_kind(_possible(_parts(rule)))]
    return min((following for following in found if following is not None), default=None)


def _next_date(parts: Mapping[str, str], due: date, today: date) -> date | None:
    interval = int(parts.get("INTERVAL", 1))
    if not parts.get("BYDAY", "any") or not _has_day(parts, due):
        return None
    weekday = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"][due.weekday()]
    if parts["FREQ"] == "DAILY" and interval % 7 == 0 and weekday not in parts.get("BYDAY", weekday):
        return None  # weeks later it is the same weekday
    after = max(due, today - timedelta(days=2))
    start = due
    if parts["FREQ"] in {"DAILY", "WEEKLY"}:  # from long ago on there would be many dates to pass over
        period = timedelta(days=interval * (7 if parts["FREQ"] == "WEEKLY" else 1))
        start += (after - due) // period * period
    # dateutil looks for a date up to the year 9999, even past UNTIL. So the search is moved towards the end of the
    # calendar, by as many of its cycles as leave the horizon before it.
    horizon = HORIZON + 8 * interval // _PER_YEAR[parts["FREQ"]]
    later = (date.max.year - after.year - horizon) // _CYCLE_YEARS * _CYCLE
    later = max(later, timedelta())
    try:
        dates = _dates(parts, start + later).xafter(datetime.combine(after + later, time()))
        every = interval if _by_month(parts) else 1
        found = next((each for each in dates if (each.date() - later - due).days % every == 0), None)
    except (ValueError, OverflowError):  # past the year 9999
        found = None
    if found is None:
        return None
    following = found.date() - later
    return following if "UNTIL" not in parts or following <= date.fromisoformat(parts["UNTIL"]) else None


def next_rule(rule: str) -> str | None:
    """Return the rule of the next task: COUNT is one less. None where it was the last."""
    parts = _parts(rule)
    if "COUNT" not in parts:
        return rule
    count = int(parts["COUNT"]) - 1
    return ";".join(f"{name}={count if name == 'COUNT' else value}" for name, value in parts.items()) if count else None
