"""Dates in a question, and words of time in a statement. English; rules, no model."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from nestmem.store.passages import words

_MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
_MONTH = (
    "(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    "sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_YEAR}-(?P<number>\d\d)-{_DAY}\b",
        rf"\b{_DAY}(?: of)? {_MONTH},? {_YEAR}\b",
        rf"\b{_MONTH} {_DAY},? {_YEAR}\b",
        rf"\b{_MONTH},? (?:of )?{_YEAR}\b",
        rf"\b{_DAY}(?: of)? {_MONTH}\b",
        rf"\b{_MONTH} {_DAY}\b",
        rf"\b(?:in|during|since|of|last|this|by|early|late|mid)[ -]{_MONTH}\b",
        rf"\b{_YEAR}\b",
    )
)
_RELATIVE = {
    "today": (0, 0),
    "yesterday": (1, 1),
    "last night": (1, 1),
    "last week": (13, 1),
    "last month": (61, 1),
}
_TIME_TEXT = """
    yesterday today tonight tomorrow last next ago since weekend week weeks month months year years day days night
    monday mondays tuesday tuesdays wednesday wednesdays thursday thursdays friday fridays saturday saturdays
    sunday sundays
"""
_TIME_WORDS = frozenset((*_TIME_TEXT.split(), *_MONTHS))
_YEAR_OR_DAY = re.compile(r"(19|20)\d\d|\d{1,2}(st|nd|rd|th)")
_ASKS_WHEN = re.compile(
    r"\b(when|how long|how old|what (date|day|month|time|year)|which (date|day|month|year))\b", re.IGNORECASE
)


@dataclass(frozen=True)
class DateRange:
    """Days from `first` to `last`, both included; without a year (`any_year`) only month and day count."""

    first: date
    last: date
    any_year: bool = False

    def holds(self, day: date, *, late_days: int = 0) -> bool:
        """Whether `day` is in the range or at most `late_days` after it (people tell things later)."""
        if self.any_year:
            shifted = (self._in_year(year) for year in (day.year - 1, day.year))
            return any(rng.holds(day, late_days=late_days) for rng in shifted)
        return self.first <= day <= self.last + timedelta(days=late_days)

    def _in_year(self, year: int) -> "DateRange":
        first = _clamped(year, self.first.month, self.first.day)
        last = _clamped(year, self.last.month, self.last.day)
        return DateRange(first, last)


def asks_when(question: str) -> bool:
    """Whether a point or length of time is asked for.

    >>> asks_when("When did she leave?"), asks_when("Who left?")
    (True, False)
    """
    return _ASKS_WHEN.search(question) is not None


def has_time_words(text: str) -> bool:
    """Whether a statement says when: a weekday, a month, "last week", a year, ..."""
    return any(
        word in _TIME_WORDS or (word[0].isdigit() and _YEAR_OR_DAY.fullmatch(word)) for word in words(text)
    )


def find(question: str, now: datetime | None = None) -> list[DateRange]:
    """The dates a question names. Relative ones ("last week") need `now`.

    >>> [(str(r.first), str(r.last)) for r in find("What happened in May 2023?")]
    [('2023-05-01', '2023-05-31')]
    """
    found: list[DateRange] = []
    rest = question
    for pattern in _PATTERNS:
        for match in pattern.finditer(rest):
            parsed = _parsed(match.groupdict())
            if parsed is not None:
                found.append(parsed)
        rest = pattern.sub(" ", rest)
    if now is not None:
        today = now.astimezone(UTC).date()
        for phrase, (start, end) in _RELATIVE.items():
            if re.search(rf"\b{phrase}\b", question, re.IGNORECASE):
                found.append(DateRange(today - timedelta(days=start), today - timedelta(days=end)))
    return found


def _parsed(parts: dict[str, str | None]) -> DateRange | None:
    name, number = parts.get("month"), parts.get("number")
    month = int(number) if number else _month_number(name) if name else None
    year = int(parts.get("year") or 0) or None
    day = None if parts.get("day") is None else int(parts["day"] or 0)
    if (month is not None and not 1 <= month <= 12) or (day is not None and not 1 <= day <= 31):
        return None
    if month is None:
        return DateRange(date(year, 1, 1), date(year, 12, 31)) if year else None
    # 2024 is a leap year, so that 29 February stays a day when no year is given.
    shown = year or 2024
    first = _clamped(shown, month, day or 1)
    last = _clamped(shown, month, day or 31)
    return DateRange(first, last, any_year=year is None)


def _month_number(name: str) -> int:
    return next(number for number, month in enumerate(_MONTHS, 1) if month.startswith(name.lower()[:3]))


def _clamped(year: int, month: int, day: int) -> date:
    """The date, or the last day of the month when the month is shorter."""
    following = date(year + month // 12, month % 12 + 1, 1)
    return date(year, month, min(day, (following - timedelta(days=1)).day))
