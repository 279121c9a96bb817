"""How slow a caller may be: Kestrel's minimum data rates. Pure, in seconds and bytes.

From TimeoutControl.cs (src/Servers/Kestrel/Core/src/Internal/Infrastructure of dotnet/aspnetcore), but for its
heartbeat, which looks only once a second.
"""


class ReadRate:
    """Of a request's body, over all the time that the host has waited for it."""

    def __init__(self, bytes_per_second: float, grace: float) -> None:
        self._rate = bytes_per_second
        self._grace = grace
        self._waited = 0.0
        self._received = 0

    @property
    def patience(self) -> float:
        """How long the host waits for the next bytes; what came fast buys time."""
        return max(self._grace, self._received / self._rate) - self._waited

    def read(self, waited: float, received: int) -> None:
        self._waited += waited
        self._received += received


class WriteRate:
    """Of a response, while the host waits for the caller to take what is in its buffer.

    Each write is given its own time, and what is left of the time of those before it: whoever has taken much may stand
    still for long. With 64 KB in the buffer that is four and a half minutes, longer than YARP waits.
    """

    def __init__(self, bytes_per_second: float, grace: float) -> None:
        self._rate = bytes_per_second
        self._grace = grace
        self.deadline = 0.0

    def wrote(self, now: float, size: int) -> None:
        seconds = size / self._rate
        self.deadline = max(now + max(self._grace, seconds), self.deadline + seconds)
