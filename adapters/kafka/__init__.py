"""Kafka, over confluent-kafka's synchronous client in threads that a session owns.

On the wire a record's value is the body, its key the key, its timestamp the timestamp. In headers, each only when set:
`_id`, `_type` (content type), `_reply_to`, `_correlation`, `_deadline` (seconds since the epoch), `_attempt` (from 2 up),
and `_time` for a timestamp that is no whole number of milliseconds. Every other header travels under its own name; one
whose name starts with `_` travels as `_h:NAME`.

A null value, a *tombstone*, is the JSON body `null`: `publish(None, "users", key="7")` writes one, and a handler that
takes `User | None` is given None.

A record without `_id` was written by another program: its id is its place, TOPIC-PARTITION-OFFSET, and a `content-type`
header is its content type.

librdkafka, the library inside confluent-kafka, resolves names and connects by itself, so the runtime's dialer has no
part in it.
"""

try:
    import confluent_kafka as _confluent_kafka  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "adapters.kafka needs confluent-kafka, which comes with the kafka extra: pip install 'trio-runtime[kafka]'"
    ) from None

from .broker import KafkaBroker as KafkaBroker
from .options import TLS as TLS, Plain as Plain, Scram as Scram
from .topics import Topic as Topic
