"""An open queue: what the server pushes is kept until it is asked for, and settled on the channel it came by."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import trio
from pamqp.commands import Basic, Queue as QueueCommands

from runtime.adapter import Held
from runtime.delivery import Delivery
from runtime.errors import Refused, SessionLost
from runtime.message import Message

from . import frames, methods, wire
from .channel import Channel, ChannelClosed
from .frames import Deliver
from .queues import Queue

#: Seconds for the server's good-bye when a queue is closed; then it is closed without it.
CLOSE_LIMIT: Final = 0.3
_CONSUMER: Final = "runtime"  # a channel has one, so any name will do
_MAX_PREFETCH: Final = 65535
#: Seconds between two looks at how many messages wait.
_LAG_INTERVAL: Final = 5.0


class Taken:
    """A message that the server handed to this channel, and that is not settled there. A delivery's receipt.

    Compared by identity: handed out a second time it is another one, with the same tag.
    """

    __slots__ = ("body", "deliver", "message", "properties", "receiver")

    def __init__(
        self,
        receiver: QueueReceiver,
        deliver: Deliver,
        properties: Basic.Properties,
        body: bytes,
        message: Message | None = None,
    ) -> None:
        self.receiver = receiver
        self.deliver = deliver
        self.properties = properties
        self.body = body
        #: What it was handed out as before, if it was released here: the same id, and the attempts counted.
        self.message = message


class QueueReceiver:
    """The reader pushes into it, the poller takes out of it, the settler answers through it."""

    def __init__(self, queue: Queue, channel: Channel, held: Held, on_lost: Callable[[Delivery], None]) -> None:
        self.lag: int | None = None
        self.queue = queue
        self.channel = channel
        self._held = held
        self._on_lost = on_lost
        self._arrived: deque[Taken] = deque()
        #: Released with a delay: (due by Trio's clock, number, what).
        self._parked: list[tuple[float, int, Taken]] = []
        self._numbers = itertools.count()
        #: The tags that are not settled, in the order of the server.
        self._unsettled: dict[int, None] = {}
        #: The poller is gone for good: a drain.
        self._left = False
        #: The server cancelled the consumer.
        self._cancelled = False
        self._news = trio.lowlevel.ParkingLot()
        channel.on_deliver = self._delivered
        channel.on_cancel = self._was_cancelled
        channel.on_end = self._ended

    async def open(self, prefetch: int) -> None:
        """Begin to consume. Raises `Refused` or `SessionLost`."""
        channel = self.channel
        # Per consumer, as quorum queues want it. What is parked counts, too: to the server it is unsettled.
        qos = Basic.Qos(prefetch_count=min(prefetch, _MAX_PREFETCH))
        try:
            await channel.call(frames.method(channel.number, qos), Basic.QosOk)
            await channel.call(methods.consume(channel.number, self.queue.name, _CONSUMER), Basic.ConsumeOk)
        except ChannelClosed as refusal:
            raise self.refused(refusal) from None

    async def receive(self, most: int) -> Sequence[Delivery]:
        try:
            await trio.lowlevel.checkpoint()
            while not (taken := self._take(most)):
                self._check()
                with trio.move_on_at(self._parked[0][0] if self._parked else float("inf")):
                    await self._news.park()
        except trio.Cancelled:
            self._leave()
            raise
        return [self._deliver(each) for each in taken]

    def _take(self, most: int) -> list[Taken]:
        now = trio.current_time()
        taken: list[Taken] = []
        while self._parked and len(taken) < most and self._parked[0][0] <= now:
            taken.append(heapq.heappop(self._parked)[2])
        while self._arrived and len(taken) < most:
            taken.append(self._arrived.popleft())
        return taken

    def _check(self) -> None:
        error = self.channel.error
        if isinstance(error, ChannelClosed):
            raise self.refused(error)
        if error is not None:
            raise SessionLost(str(error))
        if self._cancelled:
            raise Refused(f"queue {self.queue.name!r}: the server cancelled its consumer: it was deleted, or is moving")

    def _deliver(self, taken: Taken) -> Delivery:
        message = taken.message or wire.message(
            self.queue.name,
            taken.properties,
            taken.body,
            exchange=taken.deliver.exchange,
            key=taken.deliver.key,
            redelivered=taken.deliver.redelivered,
        )
        return Delivery(message, taken, self.queue)

    def refused(self, refusal: ChannelClosed) -> Refused:
        return Refused(f"queue {self.queue.name!r} refused: {refusal}")

    # ---- in the reader's task ------------------------------------------------------------------------------------

    def _delivered(self, deliver: Deliver, properties: Basic.Properties, body: bytes) -> None:
        if not self.channel.is_open:
            return  # it was on its way when we closed the channel, and goes back with it
        self._unsettled[deliver.tag] = None
        if self._left:
            self.give_back(deliver.tag)
            return
        self._arrived.append(Taken(self, deliver, properties, body))
        self._news.unpark()

    def _was_cancelled(self) -> None:
        self._cancelled = True
        self._news.unpark_all()

    def _ended(self) -> None:
        self._news.unpark_all()

    # ---- settling: each queues frames, and raises `ChannelClosed` or `SessionLost` if the channel is gone ----------

    def ack(self, tags: Iterable[int]) -> None:
        """Those that are all there is up to one of them go as one frame."""
        acked = set(tags)
        first_run = list(itertools.takewhile(acked.__contains__, self._unsettled))
        parts = []
        if len(first_run) > 1:
            parts.append(frames.ack(self.channel.number, first_run[-1], multiple=True))
            singles = acked.difference(first_run)
        else:
            singles = acked
        parts += [frames.ack(self.channel.number, tag) for tag in singles]
        for tag in acked:
            del self._unsettled[tag]
        self.channel.send(b"".join(parts))

    def give_back(self, tag: int) -> None:
        del self._unsettled[tag]
        self.channel.send(frames.nack(self.channel.number, tag))

    def reject(self, tag: int) -> None:
        del self._unsettled[tag]
        self.channel.send(frames.reject(self.channel.number, tag))

    def release(self, taken: Taken, message: Message, after: float, *, counted: bool) -> None:
        """Hand `message` out again from here after so many seconds; or, with nobody left to take it, give it back.

        Not by the server, which would forget how often it was tried.
        """
        if self._left:
            self.give_back(taken.deliver.tag)
            return
        message = msgspec.structs.replace(message, attempt=message.attempt + counted)
        again = Taken(self, taken.deliver, taken.properties, taken.body, message)
        heapq.heappush(self._parked, (trio.current_time() + after, next(self._numbers), again))
        self._news.unpark()

    async def watch_lag(self) -> None:
        """Ask now and then how many messages wait; ends with the channel."""
        frame = methods.look_at_queue(self.channel.number, self.queue.name)
        try:
            while True:
                self.lag = (await self.channel.call(frame, QueueCommands.DeclareOk)).message_count
                await trio.sleep(_LAG_INTERVAL)
        except (ChannelClosed, SessionLost):
            pass  # whoever receives hears of it

    # ---- the end -------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Take nothing more, and give back at once what nobody has received; what is being handled is still ours."""
        if self._left:
            return
        self._left = True
        idle = [*self._arrived, *(taken for _, _, taken in self._parked)]
        self._arrived.clear()
        self._parked.clear()
        if self.channel.is_open:
            self.channel.send(methods.cancel(self.channel.number, _CONSUMER))
            # In order: a quorum queue puts them behind one another at its end, a classic one knows their places.
            for tag in sorted(taken.deliver.tag for taken in idle):
                self.give_back(tag)

    async def close(self) -> None:
        """Close the channel, and with it give back all that is unsettled."""
        self._leave()
        await self.channel.close(CLOSE_LIMIT)
        for delivery in [d for d in self._held.values() if getattr(d.receipt, "receiver", None) is self]:
            self._on_lost(delivery)
