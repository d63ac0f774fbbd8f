"""Every error the runtime raises on purpose.

Two families meet here. The *public* ones tell a caller what happened to what he asked for. `SessionLost` and
`Refused` are the two words an adapter has for bad news: the transport is gone, or the server said no.
"""

from __future__ import annotations


class MessagingError(Exception):
    """Base of every error in this file: `except MessagingError` catches what the runtime reports, and no bug."""


class ConfigurationError(MessagingError):
    """A declaration cannot work: a wrong URL, an unknown option, a handler with an impossible signature.

    Raised where the declaration is made when it can be known there, else when the run starts, never later.
    """


class NotServing(MessagingError):
    """`publish` was called on a broker that no run, or more than one, is serving. Nothing was sent."""


class BrokerUnavailable(MessagingError):
    """The message was certainly not sent: the broker could not be reached within its publish limit."""


class OutcomeUnknown(MessagingError):
    """The message was sent and not confirmed: the broker may or may not have it. Never retried silently."""


class Rejected(MessagingError):
    """The broker answered, and refused this message. It does not have it."""


class Unroutable(Rejected):
    """The broker has no destination for this message. It does not have it."""


class SessionLost(MessagingError):
    """The transport under a session is gone; its supervisor opens a new one.

    `sent` says whether what was being sent may have reached the broker; an adapter that knows that it did not says
    ``sent=False``, and the message is sent again on the next session.
    """

    def __init__(self, reason: str, *, sent: bool = True) -> None:
        super().__init__(reason)
        self.sent = sent


class Refused(MessagingError):
    """The broker understood and said no: wrong credentials, a key of the wrong type, a missing permission.

    Trying again at once is hopeless, so whoever retries waits for at least a second (P8).
    """


def leaves(error: BaseException) -> list[BaseException]:
    """The errors inside `error`, groups opened, in the order they were raised."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def root_cause(error: BaseException) -> BaseException:
    """The one error to tell a person about: the first leaf that is not just the news of a lost session."""
    found = leaves(error)
    return next((leaf for leaf in found if not isinstance(leaf, SessionLost)), found[0])


def describe(error: BaseException) -> str:
    """One line about `error` that can be sent anywhere: its own words if it is ours, with its type's name if not."""
    cause = root_cause(error)
    system = cause.strerror if isinstance(cause, OSError) else None
    text = system or str(cause)
    if not text or not (system or isinstance(cause, MessagingError)):
        text = f"{type(cause).__name__}: {text}" if text else type(cause).__name__
    # File names that are not UTF-8 come in errors as lone surrogates, which no broker takes.
    return " ".join(text.split()).encode(errors="backslashreplace").decode()


def unexpected(error: BaseException) -> BaseException | None:
    """The part of `error` whose traceback is worth printing: what no adapter meant to raise. None if all was meant."""
    return next((leaf for leaf in leaves(error) if not isinstance(leaf, MessagingError | OSError)), None)
