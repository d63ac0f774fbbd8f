"""A web application that takes orders over HTTP and bills them from Kafka. It serves at once, Kafka or no Kafka.

pip install hypercorn
python -m examples.web [KAFKA [PORT]]                            # localhost:9092 8000

curl localhost:8000/health                                       # which broker is missing, and why
curl localhost:8000/orders --data '{"id": 1, "total": 9.5}'      # 202 when Kafka has it, 503 when it cannot be reached
curl localhost:8000/orders                                       # what is billed so far
"""

import signal
import sys
from http import HTTPStatus
from typing import Any

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from adapters.kafka import KafkaBroker
from runtime import BrokerUnavailable, OutcomeUnknown, Runtime

kafka = KafkaBroker(sys.argv[1] if len(sys.argv) > 1 else "localhost:9092", publish_limit=2)
port = sys.argv[2] if len(sys.argv) > 2 else "8000"
app = Runtime(kafka, grace=5)

billed: dict[int, float] = {}


class Order(msgspec.Struct):
    id: int
    total: float


@kafka.subscriber("orders")
async def bill(order: Order) -> None:
    billed[order.id] = order.total * 1.19


async def web(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """The application's own work: a few lines of ASGI, where yours has a framework."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert scope["type"] == "http", "no websockets here"
    if scope["path"] == "/health":
        status, body = health()
    elif scope["path"] == "/orders" and scope["method"] == "POST":
        status, body = await take_order(await whole(receive))
    elif scope["path"] == "/orders":
        status, body = HTTPStatus.OK, billed
    else:
        status, body = HTTPStatus.NOT_FOUND, {}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
    await send({"type": "http.response.body", "body": msgspec.json.encode(body), "more_body": False})


def health() -> tuple[HTTPStatus, Any]:
    """Never waits for anything: the status is a snapshot."""
    status = app.status()
    missing = {broker.name: broker.error or broker.state.value for broker in status.brokers if not broker.ready}
    code = HTTPStatus.OK if status.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return code, {"ready": status.ready, "missing": missing}


async def take_order(text: bytes) -> tuple[HTTPStatus, Any]:
    try:
        order = msgspec.json.decode(text, type=Order)
        await kafka.publish(order, "orders", key=str(order.id))
    except msgspec.DecodeError as error:
        return HTTPStatus.BAD_REQUEST, {"error": str(error)}
    except BrokerUnavailable as error:  # certainly not sent
        return HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)}
    except OutcomeUnknown as error:  # sent, and nobody knows whether it arrived
        return HTTPStatus.GATEWAY_TIMEOUT, {"error": str(error)}
    return HTTPStatus.ACCEPTED, {"id": order.id}


async def whole(receive: ASGIReceiveCallable) -> bytes:
    body = b""
    while (event := await receive())["type"] == "http.request":
        body += event["body"]
        if not event["more_body"]:
            break
    return body


async def main() -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def a_signal() -> None:
            await anext(signals)

        # Begins at once, whatever the brokers do, and drains when the web server has ended.
        async with app.open():
            await serve(web, config, shutdown_trigger=a_signal)


if __name__ == "__main__":
    trio.run(main)
