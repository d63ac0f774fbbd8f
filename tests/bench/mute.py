"""A server that speaks AMQP up to one method, which it never answers.

async with open_mute_server(Basic.Consume) as server:
    ...                                 # connect to server.port
    await server.asked.wait()           # somebody waits for the answer now
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import trio
from pamqp import base, commands, exceptions, frame

_CAPABILITIES: Final[dict[str, Any]] = {"publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True}
#: What it says to a method of that name, where the answer needs words.
_ANSWERS: Final[dict[str, base.Frame]] = {
    "Connection.StartOk": commands.Connection.Tune(2047, 131072, 60),
    "Queue.Declare": commands.Queue.DeclareOk("", 0, 0),
    "Basic.Consume": commands.Basic.ConsumeOk("consumer"),
}


class MuteServer:
    def __init__(self, mute: type[base.Frame]) -> None:
        self.port = 0
        #: The method that has no answer has arrived.
        self.asked = trio.Event()
        self._mute = mute

    async def serve(self, stream: trio.SocketStream) -> None:
        greeting = commands.Connection.Start(
            server_properties={"capabilities": _CAPABILITIES}, mechanisms="PLAIN", locales="en_US"
        )
        await stream.receive_some(8)
        await stream.send_all(frame.marshal(greeting, 0))
        data = b""
        async for chunk in stream:
            data += chunk
            while data:
                try:
                    used, channel, method = frame.unmarshal(data)
                except exceptions.UnmarshalingException:
                    break  # the rest of it is on its way
                data = data[used:]
                if isinstance(method, self._mute):
                    self.asked.set()
                elif (answer := _answer(method)) is not None:
                    await stream.send_all(frame.marshal(answer, channel))


def _answer(method: object) -> base.Frame | None:
    if not isinstance(method, base.Frame):
        return None
    if method.name in _ANSWERS:
        return _ANSWERS[method.name]
    if not method.synchronous or not method.valid_responses or getattr(method, "nowait", False):
        return None
    group, _, name = method.valid_responses[0].partition(".")
    answer = getattr(getattr(commands, group), name)()
    assert isinstance(answer, base.Frame)
    return answer


@asynccontextmanager
async def open_mute_server(mute: type[base.Frame]) -> AsyncIterator[MuteServer]:
    server = MuteServer(mute)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()
