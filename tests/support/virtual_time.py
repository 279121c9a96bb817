"""An event loop whose time passes when a test says so: minutes take no time, and what is due is due exactly."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast


class VirtualLoop(asyncio.SelectorEventLoop):
    now = 0.0

    def time(self) -> float:
        return self.now

    async def pass_until(self, now: float) -> None:
        """Timers that are due by then run, and what waits for them goes on."""
        self.now = now
        for _ in range(5):
            await asyncio.sleep(0)


def run_in_virtual_time(scenario: Callable[[VirtualLoop], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = cast("VirtualLoop", runner.get_loop())

        async def main() -> None:
            await scenario(loop)

        runner.run(main())
