"""Bill a stream of orders. Ends by itself in a few seconds.

runtime run examples.orders                                     # the embedded broker, no server
runtime run examples.orders --broker redis://localhost:6379     # the same module on Redis
"""

import itertools

import msgspec
import trio

from runtime import Message, Router, current_run

ORDERS = 12
router = Router()
billed = itertools.count(1)


class Order(msgspec.Struct):
    id: int
    customer: str
    total: float


class Invoice(msgspec.Struct):
    order: int
    customer: str
    due: float


@router.task
async def shop() -> None:
    """Someone has to order something."""
    for number in range(1, ORDERS + 1):
        customer = ("ada", "grace", "edsger")[number % 3]
        await router.publish(Order(number, customer, 9.5 * number), "orders", key=customer)
        await trio.sleep(0.1)


@router.subscriber("orders", concurrency=4, ordered_by="key")
@router.publisher("invoices")
async def bill(order: Order, message: Message) -> Invoice:
    if order.id == 5 and message.attempt == 1:
        raise ConnectionError("the tax service is away")  # order 5 is tried again, behind nobody
    await trio.sleep(0.2)
    print(f"order {order.id:2} of {order.customer:<6} billed, attempt {message.attempt}")
    return Invoice(order.id, order.customer, order.total * 1.19)


@router.subscriber("invoices")
async def send(invoice: Invoice) -> None:
    print(f"             invoice for order {invoice.order:2}: {invoice.due:7.2f} to {invoice.customer}")
    if next(billed) == ORDERS:
        current_run().stop("every order is billed")
