"""The poller: acquire a slot → receive → hand over. It may block in `receive` for minutes; nobody waits for it."""

from __future__ import annotations

from .adapter import Receiver
from .dispatch import Dispatch


async def poll(receiver: Receiver, dispatch: Dispatch) -> None:
    """Feed `dispatch` from `receiver` until cancelled.

    Nothing is awaited between `receive` and `accept`: a message that was taken always has an owner.
    """
    while True:
        room = await dispatch.room()
        dispatch.accept(await receiver.receive(room))
