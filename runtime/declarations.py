"""What users declare, before any run: subscribers, publishers and tasks. Plain data, frozen once it is served."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, Unpack

from .adapter import Outgoing
from .codec import Codec, encode_body
from .context import active_run
from .errors import ConfigurationError, NotServing
from .handler import Function, Handler
from .message import NO_HEADERS, Message

if TYPE_CHECKING:
    from .broker_run import BrokerRun
    from .run import Run

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Awaitable[object]])
Task = Callable[[], Awaitable[object]]
T = TypeVar("T", bound=Task)


class MessageOptions(TypedDict, total=False):
    """What a publish may say beside body and destination; see `Declarations.publish`."""

    key: str | None
    headers: Mapping[str, str]
    reply_to: str | None
    correlation_id: str | None
    content_type: str | None
    message_id: str | None


DEFAULT_CONCURRENCY = 10


def default_prefetch(concurrency: int) -> int:
    """A little above `concurrency`: enough that a handler that ends finds its next message here already."""
    return concurrency + max(8, concurrency // 4)


@dataclass(frozen=True, slots=True)
class Subscriber(Generic[S]):
    """One declared subscription. `source` is still a plain string in a router."""

    source: S | str
    handler: Handler
    concurrency: int
    prefetch: int
    ordered_by: Literal["key"] | None
    codec: Codec | None


@dataclass(frozen=True, slots=True)
class ResultPublisher(Generic[S]):
    """What `function` returns is published to `destination`."""

    destination: S | str
    function: Function


class Declarations(Generic[S]):
    """Base of `Broker` and `Router`: where handlers are registered, and what they can publish through."""

    def __init__(self) -> None:
        self.subscribers: list[Subscriber[S]] = []
        self.publishers: list[ResultPublisher[S]] = []
        self.tasks: list[Task] = []
        self._frozen = False
        # The runs that serve this object now. More than one only if a router or broker is in several applications.
        self._served_by: dict[Run, BrokerRun] = {}

    def subscriber(
        self,
        source: S | str,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        prefetch: int | None = None,
        ordered_by: Literal["key"] | None = None,
        codec: Codec | None = None,
    ) -> Callable[[F], F]:
        """Register a handler for what arrives on `source`. The function stays what it was: call it in a unit test.

        Args:
          source: where to read; a plain string means the adapter's default kind of source.
          concurrency: how many messages are handled at once, at most.
          prefetch: how many may be taken from the broker and not settled, at most; by default a quarter above
            `concurrency`, and at least eight.
          ordered_by: "key" handles messages of one key one after another, in order, where the broker can promise it.
          codec: decodes the bodies in place of the broker's codec.

        Raises `ConfigurationError` for a handler or an option that cannot work.
        """
        self._check_open("a subscriber")
        for option, value in {"concurrency": concurrency, "prefetch": prefetch}.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigurationError(
                    f"{option} of subscriber {source!s} is {value!r}: give a whole number from 1 up"
                )
        prefetch = default_prefetch(concurrency) if prefetch is None else prefetch
        if prefetch < concurrency:
            raise ConfigurationError(
                f"prefetch of subscriber {source!s} is {prefetch}, below its concurrency of {concurrency}: "
                "what is not taken cannot be handled"
            )
        if ordered_by not in (None, "key"):
            raise ConfigurationError(f'ordered_by of subscriber {source!s} is {ordered_by!r}: only "key" is known')

        def register(function: F) -> F:
            declared = Subscriber(source, Handler(function), concurrency, prefetch, ordered_by, codec)
            self.check_subscriber(declared)
            self.subscribers.append(declared)
            return function

        return register

    def publisher(self, destination: S | str) -> Callable[[F], F]:
        """Publish what the handler returns to `destination`, before its message is acknowledged.

        None is not published. The key and the correlation id of the handled message travel on. Above or below
        `subscriber`, of this broker or of another: what decorators mean is settled when the run starts.
        """
        self._check_open("a publisher")

        def register(function: F) -> F:
            self.publishers.append(ResultPublisher(destination, function))
            return function

        return register

    def task(self, function: T) -> T:
        """Run an async function beside the handlers, once per run: a feed, a clock, a poll of something else.

        It starts with the run and is cancelled when a drain begins, together with the pollers. Should it raise, the
        run fails loudly.
        """
        self._check_open("a task")
        plain: Task = function
        if not inspect.iscoroutinefunction(plain) or inspect.signature(plain).parameters:
            raise ConfigurationError(f"task {function!r} must be an async function without parameters")
        self.tasks.append(plain)
        return function

    async def publish(self, body: Any, destination: S | str, **options: Unpack[MessageOptions]) -> str:
        """Send one message and return its id when the broker has confirmed it.

        While the broker is out of reach this waits, at most for the broker's `publish_limit`; put a cancel scope around
        it for less. A cancel takes the message back if it was not sent yet; if it was, it may be on the broker.

        Args:
          body: bytes and str are sent as they are; all else is encoded by the broker's codec.
          destination: a plain string means the adapter's default kind of destination.
          key: what ordering and partitioning go by.
          content_type: in place of the one that goes with the body.
          message_id: in place of a new one; to send again what ended in `OutcomeUnknown`.

        Raises:
          BrokerUnavailable: certainly not sent.
          OutcomeUnknown: sent, not confirmed.
          Rejected, Unroutable: the broker refused it.
          NotServing: no run serves this broker now, or several do and none of them is the caller's.
          trio.ClosedResourceError: the run is over.
          TypeError, ValueError: the codec cannot encode `body`, or a key or header is no string that UTF-8 can encode.
        """
        live = self.live()
        outgoing = compose(live, body, destination, **options)
        await live.outbox.publish(outgoing)
        return outgoing.message.id

    def live(self) -> BrokerRun:
        """The live half of this object: in the caller's run, else in the one run that serves it. Raises `NotServing`."""
        run = active_run.get(None)
        if run in self._served_by:
            return self._served_by[run]
        if len(self._served_by) == 1:
            return next(iter(self._served_by.values()))
        if not self._served_by:
            raise NotServing(f"{self!r} is not being served, so nothing can be published through it: start its Runtime")
        raise NotServing(f"{self!r} is served by {len(self._served_by)} runs at once: publish from inside one of them")

    # ---- for the run ---------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """No more declarations: a run has been made from them."""
        self._frozen = True

    def attach(self, run: Run, live: BrokerRun) -> None:
        self._served_by[run] = live

    def detach(self, run: Run) -> None:
        del self._served_by[run]

    def _check_open(self, what: str) -> None:
        if self._frozen:
            raise ConfigurationError(
                f"{self!r} has been served, so {what} cannot be added: declare before the first run"
            )

    def check_subscriber(self, declared: Subscriber[S]) -> None:
        """A subclass refuses here what it can know to be impossible."""


def compose(
    live: BrokerRun,
    body: Any,
    destination: Any,
    *,
    key: str | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
    reply_to: str | None = None,
    correlation_id: str | None = None,
    content_type: str | None = None,
    message_id: str | None = None,
) -> Outgoing:
    """The message for `body`, ready to be sent. See `Declarations.publish` for the arguments and what they raise."""
    encoded, natural_type = encode_body(live.broker.codec, body)
    to = live.broker.destination(destination)
    # Refused here, at the caller: further on these share a batch with other callers' messages.
    for name, text in (
        ("destination", to.name),
        ("key", key),
        ("reply_to", reply_to),
        ("correlation_id", correlation_id),
        ("content_type", content_type or None),
        ("message_id", message_id or None),
    ):
        if text is not None:
            _check_text(name, text)
    message = Message(
        body=encoded,
        id=message_id or live.outside.message_id(),
        destination=to.name,
        key=key,
        headers=_checked(headers),
        content_type=content_type or natural_type,
        reply_to=reply_to,
        correlation_id=correlation_id,
        timestamp=live.outside.time(),
    )
    return Outgoing(message, to)


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    if not headers:
        return NO_HEADERS
    for name, value in headers.items():
        _check_text("a header's name", name)
        _check_text(f"header {name!r}", value)
    # A copy: the caller may go on using his dict while the message waits.
    return MappingProxyType(dict(headers))


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} of a message is {text!r}: give a string")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what} of a message is {text!r}, which UTF-8 cannot encode") from None
