"""An event loop whose time passes when a test says so: minutes take no time, and what is due is due exactly.

And how tests let tasks go on, in any loop, without waiting for time to pass.
"""

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


async def settle() -> None:
    """Lets tasks go on until they wait for something that a test controls."""
    for _ in range(10):
        await asyncio.sleep(0)


async def turns_until(done: Callable[[], bool]) -> None:
    """Lets everything go on that waits for no time to pass."""
    for _ in range(10_000):
        if done():
            return
        await asyncio.sleep(0)
    raise AssertionError("nothing happens any more")


def run_in_virtual_time(scenario: Callable[[VirtualLoop], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = cast("VirtualLoop", runner.get_loop())

        async def main() -> None:
            await scenario(loop)

        runner.run(main())
