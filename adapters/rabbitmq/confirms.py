"""One channel in confirm mode, and the messages on it that the server has not answered for yet."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from pamqp.commands import Basic, Confirm as ConfirmCommands

from runtime.adapter import Outgoing
from runtime.errors import OutcomeUnknown, Rejected, SessionLost, Unroutable

from . import frames, wire
from .channel import Channel, ChannelClosed
from .connection import Connection
from .frames import Confirm, Return
from .header import TooLong, encode_header
from .queues import Exchange
from .routing import routing_key


class Sheet:
    """One message on its way. It waits for its confirm while `waits`; then `error` says what became of it."""

    __slots__ = ("again", "error", "exchange", "index", "item", "key", "returned", "waits")

    def __init__(self, index: int, item: Outgoing) -> None:
        self.index = index
        self.item = item
        self.exchange = item.source.name if isinstance(item.source, Exchange) else ""
        self.key = routing_key(item.source, item.message)
        self.waits = True
        self.error: Exception | None = None
        #: The server said, before its confirm, that no queue gets it.
        self.returned: str | None = None
        #: The server has certainly not looked at it: it may be sent again.
        self.again = False

    def settle(self, error: Exception | None = None) -> None:
        self.waits, self.error = False, error

    def __str__(self) -> str:
        where = f"exchange {self.exchange!r} with key {self.key!r}" if self.exchange else f"queue {self.key!r}"
        return f"message {self.item.message.id} to {where}"


class ConfirmChannel:
    """Made by `open_confirms`. Whoever waits for sheets parks in `news`, which hears of confirms and of the end."""

    def __init__(self, channel: Channel, news: trio.lowlevel.ParkingLot) -> None:
        self.channel = channel
        self._news = news
        #: By the number that the server counts them with, and so in the order sent.
        self._waiting: dict[int, Sheet] = {}
        self._sent = 0
        channel.on_confirm = self._confirmed
        channel.on_return = self._returned
        channel.on_end = self._ended

    def send(self, sheets: Sequence[Sheet]) -> None:
        """Queue all of them. Raises `ChannelClosed` or `SessionLost` if nothing can be sent any more."""
        for sheet in sheets:
            try:
                parts = self._encode(sheet)
            except TooLong as error:
                sheet.settle(Rejected(f"{sheet} cannot be sent: {error}"))
                continue
            # One by one: all together might be gigabytes, twice. The writer joins what is small.
            self.channel.send(b"".join(parts))
            self._sent += 1
            self._waiting[self._sent] = sheet

    def _encode(self, sheet: Sheet) -> list[bytes]:
        message, destination = sheet.item.message, sheet.item.source
        return frames.publish(
            self.channel.number,
            sheet.exchange,
            sheet.key,
            mandatory=destination.mandatory,
            header=encode_header(wire.properties(message, destination), len(message.body)),
            body=message.body,
            frame_max=self.channel.connection.frame_max,
        )

    # ---- in the reader's task ------------------------------------------------------------------------------------

    def _confirmed(self, confirm: Confirm, taken: bool) -> None:
        waiting = self._waiting
        if not confirm.multiple:
            settled = [waiting.pop(confirm.tag)] if confirm.tag in waiting else []
        else:
            tags = []
            for tag in waiting:
                if tag > confirm.tag:
                    break
                tags.append(tag)
            settled = [waiting.pop(tag) for tag in tags]
        for sheet in settled:
            if not taken:
                sheet.settle(Rejected(f"RabbitMQ refused {sheet}: its queue is full, or failed to store it"))
            elif sheet.returned is not None:
                sheet.settle(Unroutable(f"no queue gets {sheet}: the server said {sheet.returned}"))
            else:
                sheet.settle()
        self._news.unpark_all()

    def _returned(self, returned: Return, properties: Basic.Properties) -> None:
        # Comes before its confirm, and names no number. Of two that look alike either will do: both are returned.
        for sheet in self._waiting.values():
            if (
                sheet.returned is None
                and sheet.item.message.id == properties.message_id
                and (sheet.exchange, sheet.key) == (returned.exchange, returned.key)
            ):
                sheet.returned = returned.text
                return

    def _ended(self) -> None:
        refusal = self.channel.error
        if isinstance(refusal, ChannelClosed):
            self._blame(refusal)
        self._waiting.clear()
        self._news.unpark_all()

    def _blame(self, refusal: ChannelClosed) -> None:
        """The server works in order: what was sent before the culprit may be done, what came after it is not."""
        sheets = list(self._waiting.values())
        culprit = next((i for i, sheet in enumerate(sheets) if _is_to_blame(sheet, refusal)), None)
        if culprit is None and len(sheets) == 1:
            culprit = 0
        for i, sheet in enumerate(sheets):
            if culprit is None or i < culprit:
                text = f"{sheet} was sent, but its channel was closed before the confirm: {refusal}"
                sheet.settle(OutcomeUnknown(text))
            elif i == culprit or _is_to_blame(sheet, refusal):
                sheet.settle(Rejected(f"RabbitMQ refused {sheet}: {refusal}"))
            else:
                sheet.again = True


def _is_to_blame(sheet: Sheet, refusal: ChannelClosed) -> bool:
    """Whether the server's words name what this message has."""
    words = str(refusal)
    named = f"exchange '{sheet.exchange or 'amq.default'}' " in words
    return named or f"message size {len(sheet.item.message.body)} " in words


async def open_confirms(connection: Connection, news: trio.lowlevel.ParkingLot) -> ConfirmChannel:
    """Raises `SessionLost`, `ChannelClosed` or `Refused`."""
    channel = await connection.open_channel()
    try:
        await channel.call(frames.method(channel.number, ConfirmCommands.Select()), ConfirmCommands.SelectOk)
    except trio.Cancelled:
        channel.end(SessionLost("it was not opened"))
        raise
    return ConfirmChannel(channel, news)
