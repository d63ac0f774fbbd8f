"""The faults that every broker knows, each told once: a test says where, and gets the row of the fault table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from runtime import Backoff, LinkState, OutcomeUnknown, Runtime

from ..bench.table import Row
from ..bench.traffic import traffic
from ..bench.waiting import until
from .place import Place


async def restarted_under_load(place: Place) -> Row:
    with place.recorder(1, "restarted at ⅓ and ½ of 10,000") as recorder:
        at_risk = 0
        async with traffic(place.broker(), "orders", recorder, total=10_000, publishers=100) as load:
            for share in (1 / 3, 1 / 2):
                await load.reaches(share)
                at_risk += place.at_risk(load) + place.acks_in_memory
                place.server.kill()
                await until(lambda: load.state is not LinkState.CONNECTED)
                recorder.fault("the server is gone", proof=not place.server.is_running())
                await place.server.start()
                recorder.mark_fault(unsettled=at_risk)
            await load.ends()
            recorder.fault("sessions after the first", proof=load.sessions >= 3 or place.connects_itself)
        await place.at_rest()
        return recorder.check(duplicates_at_most=at_risk + len(recorder.unknown), recovery_within=10)


async def down_for_a_minute(place: Place) -> Row:
    with place.recorder(2, "killed, down 60 s") as recorder:
        async with traffic(place.broker(), "orders", recorder, total=2_000) as load:
            await load.reaches(1 / 2)
            at_risk = place.at_risk(load) + place.acks_in_memory
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
        async with place.open_proxy() as proxy:
            async with traffic(place.broker(proxy.port), "orders", recorder, total=3_000) as load:
                for share in (0.2, 0.4, 0.6):
                    await load.reaches(share)
                    resets = proxy.resets
                    proxy.cut_after(37, "down")
                    await until(lambda: proxy.resets > resets)  # noqa: B023
                    at_risk += place.at_risk(load)
                    recorder.mark_fault(unsettled=at_risk)
                await load.ends()
                recorder.fault("connections reset", proof=proxy.resets >= 3)
            await place.at_rest()
        return recorder.check(duplicates_at_most=at_risk + len(recorder.unknown), recovery_within=5)


async def black_hole(place: Place, direction: str, probe: float = 1.0) -> Row:
    """`direction` is upstream or downstream, `probe` the seconds between two probes."""
    with place.recorder({"upstream": 5, "downstream": 6}[direction], f"black hole {direction}") as recorder:
        async with place.open_proxy() as proxy:
            found = {LinkState.DOWN, LinkState.CONNECTING} | ({LinkState.DEGRADED} if place.connects_itself else set())
            broker = place.broker(proxy.port, probe_interval=probe, connect_limit=1)
            async with traffic(broker, "orders", recorder, total=3_000) as load:
                await load.reaches(1 / 3)
                at_risk = place.at_risk(load)
                proxy.swallow(up=direction == "upstream", down=direction == "downstream")
                await until(lambda: not load.app.status().brokers[0].ready, within=2 * probe)
                await until(lambda: load.state in found, within=2 * probe)
                recorder.fault("bytes swallowed", proof=proxy.swallowed)
                proxy.forward()
                recorder.mark_fault(unsettled=at_risk)
                await load.ends()
            await place.at_rest()
        # Where a lease outlives its session, acks that were swallowed are sent again and nothing is doubled by them;
        # publishes of unknown outcome may be.
        return recorder.check(duplicates_at_most=at_risk + len(recorder.unknown), recovery_within=10)


async def latency(place: Place, total: int = 100) -> Row:
    with place.recorder(7, "500 ms latency with jitter") as recorder:
        async with place.open_proxy() as proxy:
            broker = place.broker(proxy.port, probe_interval=2)
            async with traffic(broker, "orders", recorder, total=total, publishers=50) as load:
                await load.reaches(0.1)
                recorder.mark_fault()
                proxy.delay(0.25, jitter=0.1)  # each way
                await load.ends()
                recorder.fault("one session all the time", proof=load.sessions == 1)
                began = trio.current_time()
                await broker.publish(0, "other")
                recorder.fault("a round trip is slow", proof=trio.current_time() - began > 0.3)
            # The good-bye takes a round trip or two, and these are long.
            await place.at_rest()
        return recorder.check()


async def flaps(place: Place, count: int) -> Row:
    with place.recorder(8, f"{count:,} connection flaps") as recorder:
        async with place.open_proxy() as proxy:
            broker = place.broker(proxy.port, backoff=Backoff(first=0.01, cap=0.02))
            async with traffic(broker, "orders", recorder, total=2_000, publishers=10) as load:
                at_risk = 0
                seen = 0

                def connections() -> int:
                    """So far, as whoever makes them counts them."""
                    return proxy.connections if place.connects_itself else load.sessions

                for _ in range(count):
                    await until(lambda: connections() > seen)  # noqa: B023
                    seen = connections()
                    at_risk += place.at_risk(load)
                    proxy.reset()
                recorder.mark_fault()
                await load.ends()
                recorder.fault("connections reset", proof=proxy.resets >= count)
            await place.at_rest()
        return recorder.check(duplicates_at_most=at_risk + len(recorder.unknown))


async def confirm_lost(place: Place, stored: Callable[[str], int]) -> Row:
    """`stored(source)` is how many messages the server has."""
    with place.recorder(12, "confirm lost") as recorder:
        async with place.open_proxy() as proxy:
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
