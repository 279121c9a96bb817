"""When this shim goes away: what its owner has announced. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from shim.settings.reader import Reader

_MINUTE = 60
_PERIODS = {"hour": 60 * _MINUTE, "day": 24 * 60 * _MINUTE}
# Midday UTC: a rehearsal that nobody is awake for finds nobody.
_DEFAULT_START = "12:00"

_INSTANT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d))?")
_BROWNOUT = re.compile(r"(\d{1,4})m/(hour|day)(?:@((?:[01]\d|2[0-3]):[0-5]\d))?")
# An absolute URL that can stand between < and > in a Link header (RFC 8288, section 3).
_LINK = re.compile(r"https?://[!#-;=?-\[\]_a-z~]+")


@dataclass(frozen=True, slots=True)
class Brownout:
    """A window of refusals that comes again every `period`, from `start` into it; all in seconds, UTC."""

    length: int
    period: int
    start: int

    def ends_in(self, now: float) -> float | None:
        """Seconds until the present window closes; None outside of one."""
        passed = (now - self.start) % self.period
        return self.length - passed if passed < self.length else None


@dataclass(frozen=True, slots=True)
class Retirement:
    """What has been announced. Times are Unix time in seconds; nothing is announced by default."""

    deprecated: int | None = None
    sunset: int | None = None
    link: str = ""
    refuse_after_sunset: bool = False
    brownout: Brownout | None = None


NOT_RETIRING = Retirement()


def read_retirement(read: Reader) -> Retirement:
    """The SHIM_… settings; what is wrong with them is added to the reader's problems."""
    retirement = Retirement(
        deprecated=_instant(read, "SHIM_DEPRECATED"),
        sunset=_instant(read, "SHIM_SUNSET"),
        link=read.matching(
            "SHIM_SUNSET_LINK", f"{_LINK.pattern}|", "", "a URL like https://wiki.example.com/shim"
        ),
        refuse_after_sunset=read.choice("SHIM_AFTER_SUNSET", {"serve": False, "refuse": True}, "serve"),
        brownout=_brownout(read),
    )
    read.problems += _contradictions(read, retirement)
    return retirement


def _contradictions(read: Reader, retirement: Retirement) -> list[str]:
    problems = []
    deprecated, sunset = retirement.deprecated, retirement.sunset
    if deprecated is not None and sunset is not None and sunset < deprecated:
        problems.append("SHIM_SUNSET must not be before SHIM_DEPRECATED (RFC 9745, section 4)")
    if not read.text("SHIM_SUNSET"):
        needing = ("SHIM_SUNSET_LINK", "SHIM_BROWNOUT")
        problems += [f"{name} needs SHIM_SUNSET" for name in needing if read.text(name)]
        if retirement.refuse_after_sunset:
            problems.append("SHIM_AFTER_SUNSET=refuse needs SHIM_SUNSET")
    return problems


def _instant(read: Reader, name: str) -> int | None:
    """A day, which is its first moment in UTC, or a time with its zone."""
    text = read.text(name)
    if not text:
        return None
    try:
        if not _INSTANT.fullmatch(text):
            raise ValueError
        at = datetime.fromisoformat(text)
    except ValueError:
        read.problems.append(f"{name} must be a date like 2027-03-31, or a time like 2027-03-31T18:00:00Z")
        return None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def _brownout(read: Reader) -> Brownout | None:
    text = read.text("SHIM_BROWNOUT")
    if not text:
        return None
    found = _BROWNOUT.fullmatch(text)
    if found is None or (found[2] == "hour" and found[3]):
        read.problems.append("SHIM_BROWNOUT must be like 10m/day, 10m/day@14:30 (UTC) or 5m/hour")
        return None
    length, period = int(found[1]) * _MINUTE, _PERIODS[found[2]]
    if not 0 < length < period:
        read.problems.append("SHIM_BROWNOUT must be longer than nothing and shorter than its period")
        return None
    hours, minutes = (found[3] or _DEFAULT_START).split(":")
    start = (int(hours) * 60 + int(minutes)) * _MINUTE if found[2] == "day" else 0
    return Brownout(length, period, start)
