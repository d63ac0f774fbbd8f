"""Where a server is and how to be let in: from a URL to addresses."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, unquote, urlsplit

from runtime.broker import hide_credentials
from runtime.errors import ConfigurationError

PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Address:
    """One node of a cluster, and who we are to it."""

    host: str
    port: int
    vhost: str
    username: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def addresses(url: str, nodes: Sequence[str], tls: ssl.SSLContext | None) -> tuple[Address, ...]:
    """The URL's node and then the others, in the order in which they are tried."""
    first = _parse(url, tls)
    if isinstance(nodes, str):
        raise ConfigurationError(f"nodes is {nodes!r}: give a list of HOST or HOST:PORT")
    return first, *(_node(each, first) for each in nodes)


def _parse(url: str, tls: ssl.SSLContext | None) -> Address:
    parts = urlsplit(url)
    shown = hide_credentials(url)
    port = _port(parts, PORTS[parts.scheme], shown)
    if not parts.hostname:
        raise ConfigurationError(f"{shown!r} names no host: write it like amqp://localhost/")
    if parts.query or parts.fragment:
        raise ConfigurationError(
            f"a RabbitMQ URL ends with its virtual host, and {shown!r} goes on: options are arguments here"
        )
    # No path and the path "/" both mean the virtual host "/"; any other is written after the slash, as %2Fname perhaps.
    vhost = parts.path.removeprefix("/")
    if "/" in vhost:
        raise ConfigurationError(
            f"the virtual host in {shown!r} has a slash in it: write it as %2F, or leave it out if there is none"
        )
    vhost = unquote(vhost) or "/"
    if len(vhost.encode()) > 255:
        raise ConfigurationError(
            f"the virtual host in {shown!r} is {len(vhost.encode())} bytes long: AMQP has room for 255"
        )
    if parts.username and parts.password is None:
        raise ConfigurationError(f"{shown!r} has a user and no password: write it like amqp://USER:PASSWORD@HOST")
    if tls is not None and parts.scheme != "amqps":
        raise ConfigurationError("tls was given for an amqp:// URL: write amqps:// to use TLS")
    return Address(
        host=parts.hostname,
        port=port,
        vhost=vhost,
        username=unquote(parts.username) if parts.username else "guest",
        password=unquote(parts.password) if parts.password is not None else "guest",
        tls=(tls or ssl.create_default_context()) if parts.scheme == "amqps" else None,
    )


def _node(node: object, first: Address) -> Address:
    if not isinstance(node, str) or not node or any(c in node for c in "/@?#"):
        shown = hide_credentials(node) if isinstance(node, str) else node
        raise ConfigurationError(f"{shown!r} in nodes is not HOST or HOST:PORT; all else is the URL's")
    try:
        parts = urlsplit(f"//{node}")
    except ValueError:
        raise ConfigurationError(f"the host {node!r} in nodes is not one: check its brackets") from None
    port = _port(parts, PORTS["amqp" if first.tls is None else "amqps"], node)
    if not parts.hostname:
        raise ConfigurationError(f"{node!r} in nodes names no host")
    return replace(first, host=parts.hostname, port=port)


def _port(parts: SplitResult, default: int, shown: str) -> int:
    try:
        port = default if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not port:
        raise ConfigurationError(
            f"the port in {shown!r} is no port: give 1 to 65535 (and write / ? # in a password as %2F %3F %23)"
        )
    return port
