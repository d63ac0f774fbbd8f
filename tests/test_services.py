"""Services outlive the block that uses them, and never the end of that block."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime.services import Services, open_services


class Diary:
    """What happened, in order."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    async def serve(self, name: str = "service") -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.entries.append(f"{name} ended")


@pytest.mark.promise("P9")
async def test_a_cancel_from_outside_reaches_the_body_first_and_the_service_after(autojump_clock: MockClock) -> None:
    diary = Diary()
    with trio.CancelScope() as scope:
        async with open_services() as services:
            services.start_soon(diary.serve, name="service")
            await wait_all_tasks_blocked()
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)  # all the while the service could still serve
                diary.entries.append("body ended")
    assert diary.entries == ["body ended", "service ended"]
    assert scope.cancelled_caught


async def test_leaving_the_block_ends_the_services_also_by_an_error(autojump_clock: MockClock) -> None:
    diary = Diary()
    async with open_services() as services:
        services.start_soon(diary.serve, "one", name="one")
        services.start_soon(diary.serve, "two", name="two")
        await wait_all_tasks_blocked()
    assert sorted(diary.entries) == ["one ended", "two ended"]

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="body")):
        async with open_services() as services:
            services.start_soon(diary.serve, "three", name="three")
            await wait_all_tasks_blocked()
            raise ValueError("body")
    assert diary.entries[2:] == ["three ended"]


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_block_left_before_a_service_first_ran_ends_it_all_the_same(cancelled: bool) -> None:
    diary = Diary()
    with trio.fail_after(1), trio.CancelScope() as scope:
        async with open_services() as services:
            services.start_soon(diary.serve, name="service")
            if cancelled:
                scope.cancel()
    assert diary.entries == ["service ended"]


@pytest.mark.promise("P8")
async def test_a_crashed_service_cancels_the_body_and_the_other_services() -> None:
    diary = Diary()

    async def crash() -> None:
        raise RuntimeError("crashed")

    async def use(services: Services) -> None:
        services.start_soon(diary.serve, name="sibling")
        services.start_soon(crash, name="crash")
        try:
            await trio.sleep_forever()
        finally:
            diary.entries.append("body ended")

    with trio.fail_after(1), pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="crashed")):
        async with open_services() as services:
            await use(services)
    assert diary.entries == ["body ended", "service ended"]


async def test_a_service_that_returns_is_missed_by_nobody(autojump_clock: MockClock) -> None:
    async with open_services() as services:
        services.start_soon(trio.sleep, 1, name="short")
        await trio.sleep(2)


async def test_a_service_has_the_name_that_it_was_given() -> None:
    names = []

    async def tell() -> None:
        names.append(trio.lowlevel.current_task().name)

    async with open_services() as services:
        services.start_soon(tell, name="redis: reader")
        await wait_all_tasks_blocked()
    assert names == ["redis: reader"]
