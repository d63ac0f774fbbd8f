"""The application that most tests of the world are about."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime import (
    Broker,
    Runtime,
)


class Order(msgspec.Struct):
    id: int


class Billing:
    """One application on each kind of broker: orders are billed, what is billed goes on to the invoices."""

    def __init__(self, broker: Broker[Any]) -> None:
        self.broker = broker
        self.app = Runtime(broker)
        self.billed: list[int] = []

        @broker.subscriber("orders")
        @broker.publisher("invoices")
        async def bill(order: Order) -> dict[str, int]:
            self.billed.append(order.id)
            return {"order": order.id}

        @broker.subscriber("invoices")
        async def file(invoice: dict[str, int]) -> None: ...

        self.bill, self.file = bill, file
