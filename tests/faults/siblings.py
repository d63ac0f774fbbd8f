"""Several brokers in one process, one of which suffers while all publish. Told for all brokers, like `stories`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio

from runtime import Broker, Runtime
from runtime.errors import MessagingError

from ..bench.dns import failing_dns, slow_dns
from ..bench.proxy import Proxy, open_proxy
from ..bench.table import Row
from ..bench.waiting import until
from .place import Place, record_handled, slowest_publish

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


UNREACHABLE = ["absent", "refusing", "black-holed", "slow DNS", "failing DNS"]


@contextmanager
def name_service(how: str) -> Iterator[None]:
    """What a broker that is not reachable in the way of `how` meets when it looks up broker.test."""
    if how == "slow DNS":
        with slow_dns({"broker.test": 30.0}) as lookups:
            yield
            assert lookups.count, "the name was looked up"
            assert lookups.most_outstanding == 1
    elif how == "failing DNS":
        with failing_dns("broker.test") as lookups:
            yield
            assert lookups.count
    else:
        yield


async def beside_an_unreachable_broker(place: Place, how: str) -> Row:
    """`how` is one of `UNREACHABLE`, inside `name_service(how)`, or "unresolvable": a name that nobody knows."""
    with place.recorder(33, f"another broker {how}") as recorder:
        async with open_proxy(place.server.port) as proxy:
            if how in ("absent", "refusing"):
                proxy.refuse()
            elif how == "black-holed":
                proxy.ignore()
            host = {"unresolvable": "broker.invalid"}.get(how, "broker.test" if "DNS" in how else "127.0.0.1")
            victim = place.broker(proxy.port, host=host, name="victim")
            healthy = place.broker(host="localhost", name="healthy")

            @victim.subscriber("orders")
            async def never(number: int) -> None: ...

            app = Runtime(victim, healthy)
            handled = record_handled(healthy, recorder)
            async with trio.open_nursery() as nursery:
                with trio.fail_after(1):
                    await nursery.start(app.serve)
                nursery.start_soon(victim.publish, 0, "orders")
                # The first waits for the connection, which some libraries are slow to make.
                assert await slowest_publish(healthy, range(1), recorder) < (3 if place.connects_itself else 0.5)
                assert await slowest_publish(healthy, range(1, 300), recorder) < 0.5
                await until(lambda: sorted(handled) == list(range(300)))
                await until(lambda: app.status().broker("healthy").ready)
                recorder.fault("the other is not ready", proof=not app.status().broker("victim").ready)
                began = trio.current_time()
                nursery.cancel_scope.cancel()
            assert trio.current_time() - began < 1
        await place.at_rest()
        # A look-up in a thread cannot be interrupted: one is left until the resolver gives up, and never a second.
        return recorder.check(leftovers=1 if how == "slow DNS" else 0)


async def neighbour_of(victim: Broker[Any], other: Broker[Any], fate: Callable[[Runtime], object]) -> None:
    """`fate` strikes `victim`, served by the `Runtime` it is given, in the middle of the publishes of `other`."""
    handled = record_handled(other)
    record_handled(victim)
    victims = Runtime(victim)
    async with trio.open_nursery() as nursery:
        await nursery.start(Runtime(other).serve)
        await nursery.start(victims.serve)
        await victim.publish(1, "orders")
        await other.publish(0, "orders")  # the first waits for the connection
        before = await slowest_publish(other, range(1, 50))
        fate(victims)
        nursery.start_soon(_publish_in_vain, victim)
        after = await slowest_publish(other, range(50, 200))
        await until(lambda: sorted(set(handled)) == list(range(200)), within=2)
        assert max(before, after) < 0.5, "no publish of the other broker waited for the victim"
        nursery.cancel_scope.cancel()


async def _publish_in_vain(victim: Broker[Any]) -> None:
    try:
        await victim.publish(2, "orders")
    except (MessagingError, trio.ClosedResourceError):
        pass  # that is what its fate comes to
