"""A router: handlers declared without naming a broker."""

from __future__ import annotations

from .declarations import Declarations


class Router(Declarations[str]):
    """Collects handlers of a module; `app.include(router, broker)` or `runtime run --broker` binds them.

    Sources and destinations are plain strings, which every adapter reads in its own way.
    """

    def __repr__(self) -> str:
        return f"<Router with {len(self.subscribers)} subscriber(s)>"
