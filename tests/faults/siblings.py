"""Several brokers in one process, one of which suffers while all publish. Told for all brokers, like `stories`."""

from __future__ import annotations

from typing import Any, Final

import trio

from runtime import Broker, Runtime
from runtime.errors import MessagingError

from ..bench.proxy import Proxy, open_proxy
from ..bench.table import Row
from ..bench.waiting import until
from .stories import Place

FATES: Final = ["closed", "cut off", "black-holed"]
#: Seconds of publishing that are compared, before and after each blow.
WINDOW: Final = 0.2


async def rounds_of_suffering(place: Place, rounds: int) -> Row:
    """In each round a new broker joins two old ones, publishes, and meets one of `FATES`."""
    with place.recorder(33, f"a sibling {', '.join(FATES)}: {rounds} rounds") as recorder:
        others = [place.broker(name=f"other-{number}") for number in range(2)]
        gauge = Gauge()
        before = after = 0
        async with (
            open_proxy(place.server.port) as proxy,
            Runtime(*others).open() as run,
            trio.open_nursery() as nursery,
        ):
            for other in others:
                nursery.start_soon(gauge.publish, other)
            await until(lambda: run.status().ready)
            for number in range(rounds):
                healthy, struck = await _round(place, proxy, FATES[number % len(FATES)], gauge)
                before, after = before + healthy, after + struck
                recorder.fault("the others published meanwhile", proof=struck)
            assert [each.sessions for each in run.status().brokers] == [1, 1], "the others kept their connections"
            nursery.cancel_scope.cancel()
        # Not a measure of speed but of standing still: a sibling that has to wait for the one that suffers has none.
        assert after > before / 2, (before, after)
        assert gauge.slowest < 0.5
        return recorder.check()


async def _round(place: Place, proxy: Proxy, fate: str, gauge: Gauge) -> tuple[int, int]:
    """How much the others published in the time before the blow, and in that after it."""
    victim = place.broker(proxy.port, name="victim")
    victims = Runtime(victim)
    own = Gauge()
    async with trio.open_nursery() as nursery:
        await nursery.start(victims.serve)
        for _ in range(5):
            nursery.start_soon(own.publish, victim)
        await until(lambda: own.count)
        before = await gauge.over(WINDOW)
        match fate:
            case "closed":
                victims.stop()
            case "cut off":
                proxy.refuse()
                proxy.reset()
            case "black-holed":
                proxy.swallow()
        after = await gauge.over(WINDOW)
        stands_still = own.count
        await gauge.over(WINDOW)
        assert own.count == stands_still, f"the victim was {fate} and publishes on"
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1
    proxy.forward()
    return before, after


class Gauge:
    """Counts publishes."""

    def __init__(self) -> None:
        self.count = 0
        self.slowest = 0.0

    async def publish(self, broker: Broker[Any]) -> None:
        """One after the other to a destination of the broker's own, until it is closed."""
        while True:
            began = trio.current_time()
            try:
                await broker.publish(0, f"orders-{broker.name}")
            except (MessagingError, trio.ClosedResourceError):
                return
            self.slowest = max(self.slowest, trio.current_time() - began)
            self.count += 1

    async def over(self, seconds: float) -> int:
        """How many there were in the next so many seconds."""
        before = self.count
        await trio.sleep(seconds)
        return self.count - before
