"""A Trio application with work of its own, that consumes and publishes on the side.

python -m examples.embedded [BROKER-URL]
"""

import sys

import trio

from adapters.memory import MemoryBroker
from adapters.redis import RedisBroker
from runtime import Runtime

url = sys.argv[1] if len(sys.argv) > 1 else "memory://"
broker = MemoryBroker() if url == "memory://" else RedisBroker(url)
app = Runtime(broker, grace=5)

temperatures: dict[str, float] = {}


@broker.subscriber("readings")
async def remember(reading: dict[str, float]) -> None:
    temperatures.update(reading)


async def measure() -> None:
    """The application's own work: it publishes through the same broker object."""
    for degrees in (19.5, 20.0, 20.5, 21.0):
        for room in ("kitchen", "attic"):
            await broker.publish({room: degrees}, "readings")
        await trio.sleep(0.2)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        # Returns at once, broker or no broker; its state is in the status.
        await nursery.start(app.serve)
        print("started:", ", ".join(f"{b.name} is {b.state.value}" for b in app.status().brokers))
        await measure()
        print("measured:", temperatures)
        app.stop("measured enough")  # serve() drains and returns, and with it the nursery ends


if __name__ == "__main__":
    trio.run(main)
