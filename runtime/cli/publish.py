"""`runtime publish`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec
import trio

from ..app import Runtime
from ..broker import Broker
from ..declarations import compose
from ..errors import MessagingError, describe, leaves
from ..outbox import Letter
from ..signals import Signals
from .bodies import Bodies, Progress, open_bodies
from .loading import UsageError, broker_from_url

#: How many may be sent and not confirmed.
WINDOW = 512


def publish(options: argparse.Namespace) -> int:
    """Publish, in order, and say how many were confirmed."""
    broker = broker_from_url(options.broker)
    if options.broker.startswith("memory://"):
        raise UsageError("memory:// lives inside one process, so nobody else would get the message: name a server")
    broker.destination(options.destination)  # refused now, not as a failed publish
    with open_bodies(options.body, options.file) as bodies, Signals() as signals:
        progress = Progress(bodies, sys.stderr)
        failure = trio.run(_publish, broker, options, signals, bodies, progress)
        progress.finish()
    text = f"{progress.confirmed} message{'' if progress.confirmed == 1 else 's'} to {options.destination}"
    if signals.received:
        print(f"interrupted: published {text}")
        return 128 + signals.received[0]
    if failure is not None:
        print(f"failed: published {text}; then: {failure}")
        return 1
    print(f"published {text}")
    return 0


async def _publish(
    broker: Broker[Any], options: argparse.Namespace, signals: Signals, bodies: Bodies, progress: Progress
) -> str | None:
    """Why it failed, or None."""
    failure: str | None = None
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope, signals.listening(lambda _: token.run_sync_soon(scope.cancel)):
        try:
            async with Runtime(broker, grace=0).open(), trio.open_nursery() as nursery:
                send, receive = trio.open_memory_channel[Letter](WINDOW)
                nursery.start_soon(_confirm, broker, receive, progress)
                async with send:
                    # The window is the channel: posting waits while it is full of letters without a confirm.
                    async for body in bodies:
                        await send.send(_post(broker, options, body))
        except* MessagingError as group:
            failure = describe(next(iter(leaves(group))))
    return failure


def _post(broker: Broker[Any], options: argparse.Namespace, body: bytes) -> Letter:
    live = broker.live()
    outgoing = compose(
        live,
        body,
        options.destination,
        key=options.key,
        headers=dict(options.headers),
        content_type=_content_type(body),
    )
    return live.outbox.post(outgoing)


async def _confirm(broker: Broker[Any], letters: trio.MemoryReceiveChannel[Letter], progress: Progress) -> None:
    outbox = broker.live().outbox
    async for letter in letters:
        await outbox.confirm(letter)
        progress.advance()


def _content_type(body: bytes) -> str:
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError:
        return "text/plain"
    return "application/json"
