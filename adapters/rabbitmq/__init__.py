"""RabbitMQ 3.10 or later, over a Trio-native AMQP 0-9-1 connection.

On the wire the id is the property `message_id`; `content_type`, `reply_to` and `correlation_id` are the properties of
those names. The timestamp is the property, in whole seconds, and exactly in the header `_time`; the deadline is the header
`_deadline` (both seconds since the epoch, as text). The key is the header `_key`, or, on an exchange, the routing key.
Every other header travels under its own name, but one called like those three travels as `_h:NAME`.

The attempt is the server's delivery count in a quorum queue. A classic queue knows only whether a message was delivered
before, so there it is 1 or 2, and grows with every release that waits in this process; it starts again where the
process does.

A delivery is lost, and made again, when its handler runs longer than the server's `consumer_timeout`, 30 minutes.

A message that another program sent is read as well as it can be: without a `message_id` it gets a new id with every
delivery, header values that are no text are shown as JSON, and what came through an exchange has its routing key as key.
"""

try:
    import pamqp as _pamqp  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "adapters.rabbitmq needs pamqp, which comes with the rabbitmq extra: pip install 'trio-runtime[rabbitmq]'"
    ) from None

from .broker import RabbitBroker as RabbitBroker
from .queues import Exchange as Exchange, Queue as Queue
