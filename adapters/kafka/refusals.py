"""Kafka's errors: what they mean to whoever waits for the answer."""

from __future__ import annotations

import re
from typing import Final

from confluent_kafka import KafkaError

from runtime.adapter import Outgoing
from runtime.errors import BrokerUnavailable, OutcomeUnknown, Refused, Rejected, SessionLost, Unroutable

_HOW_LONG: Final = re.compile(r" \(after \d+ms in state \w+(?:, \d+ identical error\(s\) suppressed)?\)")
#: Trying again cannot help until a person has done something.
AUTHENTICATION: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
_REFUSALS: Final = AUTHENTICATION | {
    KafkaError._INVALID_ARG,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_GROUP_ID,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.UNSUPPORTED_VERSION,
}
UNKNOWN_TOPIC: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
#: The message may have reached a server.
_UNKNOWN_OUTCOME: Final = frozenset(
    {
        KafkaError._PURGE_INFLIGHT,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._DESTROY,
        KafkaError._FATAL,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    }
)
#: It never left the library's queue, or no server took it.
_UNSENT: Final = frozenset({KafkaError._PURGE_QUEUE, KafkaError.NOT_ENOUGH_REPLICAS, KafkaError._QUEUE_FULL})


def text(error: KafkaError) -> str:
    """The error in the library's words, without what makes each of a series of them another: how long it took."""
    return _HOW_LONG.sub("", error.str()).strip() or str(error.name())


def refusal(error: KafkaError, what: str) -> Exception:
    """What it means for a session or a source."""
    if error.code() in UNKNOWN_TOPIC:
        return Refused(f"{what} does not exist on the cluster, which does not create it by itself: {text(error)}")
    if error.code() in _REFUSALS:
        return Refused(f"{what} refused: {text(error)}")
    return SessionLost(f"{what} is not ready: {text(error)}", sent=False)


def publish_error(error: KafkaError, item: Outgoing) -> Exception:
    """What it means for one message."""
    code = error.code()
    what = f"message {item.message.id} to topic {item.source.name!r}"
    if code in UNKNOWN_TOPIC:
        return Unroutable(f"there is nowhere to put {what}: {text(error)}")
    if code in _UNSENT:
        return BrokerUnavailable(f"no Kafka server took {what} in time, and it was not sent: {text(error)}")
    if code in _UNKNOWN_OUTCOME or error.retriable() or error.fatal():
        return OutcomeUnknown(f"{what} was sent and not confirmed: {text(error)}")
    return Rejected(f"Kafka refused {what}: {text(error)}")
