"""A messaging runtime on Trio: every task has a parent, every wait can be cancelled, nothing is acknowledged early."""

# General layout, in the order in which a message meets it:
#
#   app, router, broker, declarations   what users write: plain data, no I/O
#   compiling                           declarations → the live objects of a run
#   run                                 one life of an app: start here, `Run._live` is the whole pipeline
#   broker_run, supervisor, link        one broker: its nursery, its sessions, whether there is one
#   watchdog                            is the session alive?
#   subscription, poller                one source: opened on each session, read in batches
#   dispatch, turns, delivery           slots, order, one task per delivery, the table of its states
#   endpoint, handler, codec, retry     decode, call the user's function, judge its failure
#   settlement, outbox, batch_queue     acks and publishes, batched, outliving the handlers
#   drain, intake, services, signals    how all of it ends
#   adapter                             the contract that adapters/* implement
#
# Nothing here imports a client library. This file has the public names and nothing else.

from .adapter import Features as Features
from .app import Runtime as Runtime
from .backoff import Backoff as Backoff
from .broker import Broker as Broker
from .codec import Codec as Codec, JsonCodec as JsonCodec
from .context import current_run as current_run
from .drain import Phase as Phase
from .errors import (
    BrokerUnavailable as BrokerUnavailable,
    ConfigurationError as ConfigurationError,
    MessagingError as MessagingError,
    NotServing as NotServing,
    OutcomeUnknown as OutcomeUnknown,
    Refused as Refused,
    Rejected as Rejected,
    SessionLost as SessionLost,
    Unroutable as Unroutable,
)
from .link import LinkState as LinkState
from .message import Message as Message
from .router import Router as Router
from .run import Run as Run
from .status import BrokerStatus as BrokerStatus, Status as Status, SubscriptionStatus as SubscriptionStatus
from .subscription import SubscriptionState as SubscriptionState
