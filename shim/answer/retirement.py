"""What callers are told about the end of this shim, and when they are refused. Pure.

`now` is Unix time in seconds.
"""

from email.utils import formatdate
from functools import cache
from math import ceil

from shim.errors import BrownedOut, Retired, ShimError
from shim.headers import Headers
from shim.settings.retirement import Retirement

_DAY = 24 * 60 * 60


def announce(headers: Headers, retirement: Retirement) -> Headers:
    """The response headers with the announcement added, in place of what upstream says about itself."""
    lines = _announcement(retirement)
    replaced = {name for name, _ in lines if name != b"link"}  # a list, to which each may add (RFC 8288)
    return [header for header in headers if header[0] not in replaced] + lines if lines else headers


def refusal(retirement: Retirement, now: float) -> ShimError | None:
    """Why a call is refused at this moment; None where it is served."""
    sunset, brownout = retirement.sunset, retirement.brownout
    if sunset is None:
        return None
    if now >= sunset:
        return Retired(_retired(sunset, retirement.link)) if retirement.refuse_after_sunset else None
    if brownout is None or (retirement.deprecated is not None and now < retirement.deprecated):
        return None
    remaining = brownout.ends_in(now)
    if remaining is None:
        return None
    return BrownedOut(_browned_out(sunset, retirement.link), retry_after=ceil(remaining))


def days_left(retirement: Retirement, now: float) -> int | None:
    """Days until the sunset, begun ones counted; 0 or less once it has passed, None where there is none."""
    return None if retirement.sunset is None else ceil((retirement.sunset - now) / _DAY)


def report(retirement: Retirement, now: float) -> dict[str, object]:
    """For /readyz: the dates that every response carries anyway, and the days that are left."""
    if retirement.deprecated is None and retirement.sunset is None:
        return {}
    stated: dict[str, object] = {}
    if retirement.deprecated is not None:
        stated["deprecated"] = _http_date(retirement.deprecated)
    if retirement.sunset is not None:
        stated["sunset"] = _http_date(retirement.sunset)
        stated["days_left"] = days_left(retirement, now)
        stated["after_sunset"] = "refuse" if retirement.refuse_after_sunset else "serve"
    return {"retirement": stated}


@cache
def _announcement(retirement: Retirement) -> Headers:
    lines: Headers = []
    if retirement.deprecated is not None:
        # A Date of structured fields: RFC 9745, section 2.1.
        lines.append((b"deprecation", b"@%d" % retirement.deprecated))
    if retirement.sunset is not None:
        # RFC 8594, section 3.
        lines.append((b"sunset", _http_date(retirement.sunset).encode()))
    if retirement.link:
        # RFC 8594, section 6.
        lines.append((b"link", f'<{retirement.link}>; rel="sunset"'.encode()))
    return lines


def _http_date(at: int) -> str:
    """IMF-fixdate: RFC 9110, section 5.6.7."""
    return formatdate(at, usegmt=True)


def _retired(sunset: int, link: str) -> str:
    return f"This endpoint was retired on {_http_date(sunset)}. {_where_to_go(link)}"


def _browned_out(sunset: int, link: str) -> str:
    return (
        f"This endpoint will be retired on {_http_date(sunset)}, and refuses calls for announced periods until then."
        f" {_where_to_go(link)}"
    )


def _where_to_go(link: str) -> str:
    return f"What to use in its place: {link}" if link else "Ask whoever runs it what to use in its place."
