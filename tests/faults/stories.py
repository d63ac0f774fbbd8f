"""The faults that every broker knows, each told once: a test says where, and gets the row of the fault table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from runtime import Backoff, Broker, LinkState, OutcomeUnknown, Runtime
from runtime.errors import MessagingError

from ..bench.command import Worker
from ..bench.dns import failing_dns, slow_dns
from ..bench.process import ServerProcess
from ..bench.proxy import Proxy, open_proxy
from ..bench.recorder import Recorder
from ..bench.table import Row
from ..bench.traffic import traffic
from ..bench.waiting import until
from ..bench.worker import worker

UNREACHABLE = ["absent", "refusing", "black-holed", "slow DNS", "failing DNS"]


@dataclass(frozen=True)
class Place:
    """A server, and how to make brokers for it."""

    #: What the fault table calls it.
    kind: str
    server: ServerProcess
    broker_type: type[Broker[Any]]
    #: With {host} and {port}.
    url_format: str
    #: Arguments of every broker.
    options: Mapping[str, object] = field(default_factory=dict)

    def url(self, port: int | None = None, host: str = "127.0.0.1") -> str:
        return self.url_format.format(host=host, port=self.server.port if port is None else port)

    def broker(self, port: int | None = None, *, host: str = "127.0.0.1", **options: Any) -> Broker[Any]:
        """One for the server itself, or for a proxy's `port`."""
        return self.broker_type(self.url(port, host), **{**self.options, **options})

    def recorder(self, number: int, fault: str) -> Recorder:
        return Recorder(number, fault, broker=self.kind)

    def module(self, text: str, port: int | None = None, *, host: str = "127.0.0.1", **values: object) -> str:
        """`text` with the {name} of the broker's class, its {module}, its {arguments} and whatever else is in it."""
        name, module = self.broker_type.__name__, self.broker_type.__module__.rpartition(".")[0]
        arguments = ", ".join(
            [repr(self.url(port, host)), *(f"{key}={value!r}" for key, value in self.options.items())]
        )
        return text.format(module=module, name=name, arguments=arguments, **values)


#: A module for `worker` that prints what it handles.
WORKER = """
import trio
from runtime import Runtime
from {module} import {name}
{setup}
broker = {name}({arguments}, probe_interval=1)
app = Runtime(broker, grace={grace})

@broker.subscriber("orders", concurrency=200)
async def handle(number: int) -> None:
    print("handling", number, flush=True)
    await trio.sleep({duration})
    print("handled", number, flush=True)
"""


async def restarted_under_load(place: Place) -> Row:
    with place.recorder(1, "restarted at ⅓ and ½ of 10,000") as recorder:
        at_risk = 0
        async with traffic(place.broker(), "orders", recorder, total=10_000, publishers=100) as load:
            for share in (1 / 3, 1 / 2):
                await load.reaches(share)
                at_risk += load.at_risk
                place.server.kill()
                await until(lambda: load.state is not LinkState.CONNECTED)
                await place.server.start()
                recorder.mark_fault(unsettled=at_risk)
            await load.ends()
            recorder.fault("sessions after the first", proof=load.sessions >= 3)
        return recorder.check(duplicates_at_most=at_risk + len(recorder.unknown), recovery_within=10)


async def down_for_a_minute(place: Place) -> Row:
    with place.recorder(2, "killed, down 60 s") as recorder:
        async with traffic(place.broker(), "orders", recorder, total=2_000) as load:
            await load.reaches(1 / 2)
            at_risk = load.at_risk
            place.server.kill()
            await until(lambda: not load.app.status().ready, within=5)
            recorder.fault("the server is gone", proof=not place.server.is_running())
            await trio.sleep(60)
            await place.server.start()
            recorder.mark_fault(unsettled=at_risk)
            await load.ends()
        return recorder.check(duplicates_at_most=at_risk + len(recorder.unknown), recovery_within=10)


async def absent_at_start(place: Place) -> Row:
    """The server of `place` is not started yet."""
    with place.recorder(3, "absent at start") as recorder:
        async with traffic(place.broker(), "orders", recorder, total=100, publishers=10) as load:
            await until(lambda: load.app.status().brokers[0].attempts >= 3)
            recorder.fault("attempts before it came", proof=load.app.status().brokers[0].attempts)
            await place.server.start()
            recorder.mark_fault()
            await load.ends()
        return recorder.check(recovery_within=5)


async def reset_in_mid_frame(place: Place) -> Row:
    with place.recorder(4, "TCP reset in mid-frame") as recorder:
        at_risk = 0
        async with open_proxy(place.server.port) as proxy:
            async with traffic(place.broker(proxy.port), "orders", recorder, total=3_000) as load:
                for share in (0.2, 0.4, 0.6):
                    await load.reaches(share)
                    resets = proxy.resets
                    proxy.cut_after(37, "down")
                    await until(lambda: proxy.resets > resets)  # noqa: B023
                    at_risk += load.at_risk
                    recorder.mark_fault(unsettled=at_risk)
                await load.ends()
                recorder.fault("connections reset", proof=proxy.resets >= 3)
        return recorder.check(duplicates_at_most=at_risk + len(recorder.unknown), recovery_within=5)


async def black_hole(place: Place, direction: str) -> Row:
    """`direction` is upstream or downstream."""
    with place.recorder({"upstream": 5, "downstream": 6}[direction], f"black hole {direction}") as recorder:
        async with open_proxy(place.server.port) as proxy:
            probe = 1.0
            broker = place.broker(proxy.port, probe_interval=probe, connect_limit=1)
            async with traffic(broker, "orders", recorder, total=3_000) as load:
                await load.reaches(1 / 3)
                at_risk = load.at_risk
                proxy.swallow(up=direction == "upstream", down=direction == "downstream")
                await until(lambda: not load.app.status().brokers[0].ready, within=2 * probe)
                await until(lambda: load.state in (LinkState.DOWN, LinkState.CONNECTING), within=2 * probe)
                recorder.fault("bytes swallowed", proof=proxy.swallowed)
                proxy.forward()
                recorder.mark_fault(unsettled=at_risk)
                await load.ends()
        # Where a lease outlives its session, acks that were swallowed are sent again and nothing is doubled by them;
        # publishes of unknown outcome may be.
        return recorder.check(duplicates_at_most=at_risk + len(recorder.unknown), recovery_within=10)


async def latency(place: Place) -> Row:
    with place.recorder(7, "500 ms latency with jitter") as recorder:
        async with open_proxy(place.server.port) as proxy:
            broker = place.broker(proxy.port, probe_interval=2)
            async with traffic(broker, "orders", recorder, total=200, publishers=50) as load:
                await load.reaches(0.1)
                recorder.mark_fault()
                proxy.delay(0.25, jitter=0.1)  # each way
                await load.ends()
                recorder.fault("one session all the time", proof=load.sessions == 1)
                began = trio.current_time()
                await broker.publish(0, "other")
                recorder.fault("a round trip is slow", proof=trio.current_time() - began > 0.3)
        return recorder.check()


async def flaps(place: Place, count: int) -> Row:
    with place.recorder(8, f"{count:,} connection flaps") as recorder:
        async with open_proxy(place.server.port) as proxy:
            broker = place.broker(proxy.port, backoff=Backoff(first=0.01, cap=0.02))
            async with traffic(broker, "orders", recorder, total=2_000, publishers=10) as load:
                for flap in range(count):
                    await until(lambda: load.sessions > flap)  # noqa: B023
                    proxy.reset()
                recorder.mark_fault()
                await load.ends()
                recorder.fault("connections reset", proof=proxy.resets >= count)
        return recorder.check(duplicates_at_most=2_000)


async def confirm_lost(place: Place, stored: Callable[[str], int]) -> Row:
    """`stored(source)` is how many messages the server has."""
    with place.recorder(12, "confirm lost") as recorder:
        async with open_proxy(place.server.port) as proxy:
            broker = place.broker(proxy.port)
            handled: list[int] = []

            @broker.subscriber("orders")
            async def handle(number: int) -> None:
                handled.append(number)
                recorder.handled(number)

            app = Runtime(broker)
            async with app.open():
                await until(lambda: app.status().ready)
                await broker.publish(0, "elsewhere")
                proxy.cut_after(1, "down")
                recorder.mark_fault(unsettled=1)
                with pytest.raises(OutcomeUnknown):
                    await broker.publish(1, "elsewhere", message_id="one")
                recorder.outcome_unknown(1)
                recorder.fault("the connection was cut in the confirm", proof=proxy.resets)
                await broker.publish(1, "orders", message_id="one")
                recorder.confirmed(1)
                await until(lambda: handled)
        recorder.fault("the server had taken it", proof=stored("elsewhere") == 2)
        return recorder.check(duplicates_at_most=1, recovery_within=5)


# ---- SIGTERM to a process ----------------------------------------------------------------------------------------


@asynccontextmanager
async def in_flight(
    place: Place,
    recorder: Recorder,
    folder: Path,
    count: int,
    *,
    duration: float,
    add_numbers: Callable[[str, int], None],
) -> AsyncIterator[Worker]:
    """A worker that handles `count` messages at the same time, for `duration` seconds each."""
    async with worker(folder, place.module(WORKER, setup="", grace=10, duration=duration)) as running:
        await running.says("connected")
        add_numbers("orders", count)  # at once: none may be done before the last has begun
        for number in range(count):
            recorder.confirmed(number)
        await running.says("handling", times=count)
        recorder.mark_fault(unsettled=count)
        yield running


async def sigterm_with_200_in_flight(
    place: Place, folder: Path, add_numbers: Callable[[str, int], None], is_settled: Callable[[], object]
) -> Row:
    with place.recorder(22, "SIGTERM, 200 in flight") as recorder:
        async with in_flight(place, recorder, folder, 200, duration=1, add_numbers=add_numbers) as running:
            recorder.fault("in flight", proof="handled" not in running.output)
            running.signal()
            status, _ = await running.ends(within=10)
            recorder.mark_recovered()
            assert status == 0, running.output
        for line in running.output.splitlines():
            if line.startswith("handled "):
                recorder.handled(int(line.removeprefix("handled ")))
        recorder.fault("all is settled", proof=is_settled())
        return recorder.check()


async def killed_with_40_in_flight(
    place: Place, folder: Path, add_numbers: Callable[[str, int], None], again: Broker[Any], source: Any, within: float
) -> Row:
    """`again` reads what the dead worker left in `source`."""
    with place.recorder(24, "worker killed, 40 in flight") as recorder:
        async with in_flight(place, recorder, folder, 40, duration=3600, add_numbers=add_numbers) as running:
            running.process.kill()
            recorder.fault("killed", proof=await running.process.wait() == -9)
        for number in range(40):
            recorder.handled(number)
        recorder.mark_fault(unsettled=40)
        seen: list[int] = []

        @again.subscriber(source)
        async def handle(number: int) -> None:
            recorder.handled(number)
            seen.append(number)

        async with Runtime(again).open():
            await until(lambda: len(seen) >= 40, within=within)
        assert sorted(seen) == list(range(40))
        return recorder.check(duplicates_at_most=40, recovery_within=within)


async def sigterm_in(moment: str, place: Place, folder: Path, polls: Callable[[], object]) -> Row:
    """`moment` is one of `MOMENTS`; `polls()` is whether the server sees a consumer that waits."""
    with place.recorder(32, f"SIGTERM in {moment}") as recorder:
        async with open_proxy(place.server.port) as proxy:
            setup, host = "", "127.0.0.1"
            if moment == "slow DNS":
                host = "broker.test"
                setup = "from tests.bench.dns import install_slow\ninstall_slow({'broker.test': 60.0})"
            elif moment == "black-holed connect":
                proxy.ignore()
            elif moment == "black-holed handshake":
                proxy.swallow()
            elif moment == "back-off":
                proxy.refuse()
            module = place.module(WORKER, proxy.port, host=host, setup=setup, grace=1, duration=0)
            async with worker(folder, module, "--log-level", "debug") as running:
                await _reach(moment, proxy, running, polls, recorder)
                recorder.mark_fault(unsettled=0)
                running.signal()
                _, seconds = await running.ends(within=5)
                recorder.mark_recovered()
                assert seconds < 1 + 2, running.output
                assert "Traceback" not in running.output
        return recorder.check(recovery_within=1 + 2)


MOMENTS = [
    "black-holed connect",
    "black-holed handshake",
    "slow DNS",
    "back-off",
    "idle long-poll",
    "black-holed session",
]


async def _reach(moment: str, proxy: Proxy, running: Worker, polls: Callable[[], object], recorder: Recorder) -> None:
    match moment:
        case "slow DNS":
            await running.says("looking up broker.test")
            recorder.fault("a look-up under way", proof="connected" not in running.output)
        case "black-holed connect":
            await until(lambda: proxy.knocking)
            recorder.fault("an attempt without an answer", proof=proxy.knocking)
        case "black-holed handshake":
            await until(lambda: proxy.swallowed_up)
            recorder.fault("a greeting without an answer", proof=proxy.swallowed_up)
        case "back-off":
            await running.says("trying again until it works", times=4)
            recorder.fault("attempts refused", proof=proxy.refuses())
        case _:
            await running.says("connected")
            await until(polls)
            recorder.fault("a consumer that waits", proof=polls())
            if moment == "black-holed session":
                proxy.swallow()


# ---- Two brokers -------------------------------------------------------------------------------------------------


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
    """`how` is one of `UNREACHABLE`. Inside `name_service(how)`."""
    with place.recorder(33, f"another broker {how}") as recorder:
        async with open_proxy(place.server.port) as proxy:
            if how in ("absent", "refusing"):
                proxy.refuse()
            elif how == "black-holed":
                proxy.ignore()
            host = "broker.test" if "DNS" in how else "127.0.0.1"
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
                assert await slowest_publish(healthy, range(300), recorder) < 0.5
                await until(lambda: sorted(handled) == list(range(300)))
                assert app.status().broker("healthy").ready
                recorder.fault("the other is not ready", proof=not app.status().broker("victim").ready)
                began = trio.current_time()
                nursery.cancel_scope.cancel()
            assert trio.current_time() - began < 1
        # A look-up in a thread cannot be interrupted: one is left until the resolver gives up, and never a second.
        return recorder.check(leftovers=1 if how == "slow DNS" else 0)


def record_handled(broker: Broker[Any], recorder: Recorder | None = None) -> list[int]:
    """Subscribe to `orders`; the list is what was handled so far."""
    handled: list[int] = []

    @broker.subscriber("orders")
    async def handle(number: int) -> None:
        handled.append(number)
        if recorder is not None:
            recorder.handled(number)

    return handled


async def slowest_publish(broker: Broker[Any], numbers: range, recorder: Recorder | None = None) -> float:
    """Publish them one by one to `orders`; the seconds that the slowest took."""
    slowest = 0.0
    for number in numbers:
        began = trio.current_time()
        await broker.publish(number, "orders")
        slowest = max(slowest, trio.current_time() - began)
        if recorder is not None:
            recorder.confirmed(number)
    return slowest


async def neighbour_of(victim: Broker[Any], other: Broker[Any], fate: Callable[[Runtime], object]) -> None:
    """`fate` strikes `victim`, served by the `Runtime` it is given, in the middle of the publishes of `other`."""
    handled = record_handled(other)
    record_handled(victim)
    victims = Runtime(victim)
    async with trio.open_nursery() as nursery:
        await nursery.start(Runtime(other).serve)
        await nursery.start(victims.serve)
        await victim.publish(1, "orders")
        before = await slowest_publish(other, range(50))
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
