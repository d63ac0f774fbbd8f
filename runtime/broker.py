"""The broker object: what a user holds, and what an adapter subclasses. A plain declaration that does no I/O."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Generic, TypedDict, TypeVar
from urllib.parse import urlsplit

from .adapter import Features, Reading, Session, Source
from .backoff import Backoff
from .codec import JSON, Codec
from .declarations import Declarations, Subscriber
from .dial import Dialer
from .errors import ConfigurationError
from .message import Message

S = TypeVar("S", bound=Source)


class BrokerOptions(TypedDict, total=False):
    """The options of every broker, for the signatures of adapters: `**options: Unpack[BrokerOptions]`."""

    name: str | None
    codec: Codec
    publish_limit: float
    connect_limit: float
    probe_interval: float
    backoff: Backoff


class Broker(Declarations[S], Generic[S]):
    """Base of every adapter's broker; `S` is the kind of source that it reads from and publishes to.

    Args:
      url: where the broker is. Checked here, connected to when a run starts.
      name: what status and logs call it; by default the URL's scheme.
      codec: encodes and decodes bodies.
      publish_limit: seconds that a publish may take, waiting for a connection included.
      connect_limit: seconds that one attempt to connect may take, name look-up included.
      probe_interval: seconds between the watchdog's probes.
      backoff: how long to wait between attempts.
    """

    features: ClassVar[Features]
    #: The URL schemes that this adapter answers to.
    schemes: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        codec: Codec = JSON,
        publish_limit: float = 30.0,
        connect_limit: float = 10.0,
        probe_interval: float = 5.0,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if not isinstance(url, str) or "://" not in url:
            raise ConfigurationError(
                f"{hide_credentials(str(url))!r} is not a broker URL: write it like {self.schemes[0]}://host:port"
            )
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ConfigurationError(f"the host in {hide_credentials(url)!r} is not one: check its brackets") from None
        if parts.scheme not in self.schemes:
            known = " or ".join(f"{scheme}://" for scheme in self.schemes)
            raise ConfigurationError(f"{type(self).__name__} does not know {parts.scheme}:// URLs: give it {known}")
        for option, value in {
            "publish_limit": publish_limit,
            "connect_limit": connect_limit,
            "probe_interval": probe_interval,
        }.items():
            if not isinstance(value, int | float) or not value > 0:
                raise ConfigurationError(f"{option} of {type(self).__name__} is {value!r}: give seconds above 0")
        self.url = url
        self.name = name or parts.scheme
        self.codec = codec
        self.publish_limit = publish_limit
        self.connect_limit = connect_limit
        self.probe_interval = probe_interval
        self.backoff = backoff

    @abstractmethod
    def source(self, spec: S | str) -> S:
        """What a subscriber's `spec` means. Raises `ConfigurationError` for what cannot be read from."""

    def destination(self, spec: S | str) -> S:
        """What a publish's `spec` means. Raises `ConfigurationError` for what cannot be published to."""
        return self.source(spec)

    @property
    def server_identity(self) -> Hashable:
        """Equal for two broker objects that reach the same server."""
        return type(self), self.url

    def reading(self, source: S) -> Reading:
        """What `source` reads: the first half of the adapter's routing rule. Pure; by default a queue of its name."""
        return Reading((source.name,))

    def route(self, message: Message, destination: S, declared: Collection[S]) -> Sequence[str]:
        """The logs that get a message published to `destination`: the second half. Pure; by default the one so named.

        Raises `Unroutable` where the broker would refuse it because nobody could receive it.

        Args:
          declared: every source that has been opened on this broker; what is bound to an exchange is read from it.
        """
        return (destination.name,)

    @abstractmethod
    def open_session(self, identity: str, dialer: Dialer) -> AbstractAsyncContextManager[Session]:
        """See `runtime.adapter.OpenSession`."""

    @property
    def safe_url(self) -> str:
        """The URL without its password, for status and logs."""
        parts = urlsplit(self.url)
        if parts.password is None:
            return self.url
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{parts.username or ''}:***@{host}").geturl()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.safe_url!r})"

    def check_subscriber(self, declared: Subscriber[Any]) -> None:
        self.source(declared.source)
        if declared.ordered_by is not None and self.features.ordering == "none":
            raise ConfigurationError(
                f"subscriber {declared.source!s} asks for ordered_by={declared.ordered_by!r}, which "
                f"{type(self).__name__} cannot promise"
            )


def hide_credentials(url: str) -> str:
    """`url` for an error message. It need not be well-formed: whatever is in front of the last @ may be a password."""
    _, at, rest = url.rpartition("@")
    return f"***@{rest}" if at else url
