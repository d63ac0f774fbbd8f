"""The watchdog: asks the session whether it lives, in its own task and scope, whatever the pollers do."""

from __future__ import annotations

from typing import NoReturn

import trio

from .adapter import Session
from .errors import SessionLost
from .link import Link


async def watch(session: Session, link: Link, interval: float) -> NoReturn:
    """Probe `session` every `interval` seconds.

    A probe not answered within half an interval makes the link degraded: it shows, and nothing is torn down. Not
    answered within a whole one it raises `SessionLost`. So a dead peer that no error betrays is found after at most two
    intervals, and a slow one is not hung up on. The probe is never cancelled to ask again: its answer may be the next
    one to come. An answer that names what is not well makes the link degraded for as long as it does.
    """
    while True:
        await trio.sleep(interval)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deadlines, link, interval, name="probe deadline")
            complaint = await session.probe()
            nursery.cancel_scope.cancel()
        if complaint is None:
            link.healthy()
        else:
            link.degraded(complaint)


async def _deadlines(link: Link, interval: float) -> NoReturn:
    await trio.sleep(interval / 2)
    link.degraded(f"a probe has had no answer for {interval / 2:g} s")
    await trio.sleep(interval / 2)
    raise SessionLost(f"a probe had no answer for {interval:g} s")
