"""From the words on the command line to objects: modules, attributes, broker URLs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

from ..app import Runtime
from ..broker import Broker, hide_credentials
from ..router import Router

#: URL scheme → where its adapter lives.
ADAPTERS: Final = {
    "memory": ("adapters.memory", "MemoryBroker"),
    "redis": ("adapters.redis", "RedisBroker"),
    "rediss": ("adapters.redis", "RedisBroker"),
    "unix": ("adapters.redis", "RedisBroker"),
    "amqp": ("adapters.rabbitmq", "RabbitBroker"),
    "amqps": ("adapters.rabbitmq", "RabbitBroker"),
    "kafka": ("adapters.kafka", "KafkaBroker"),
}


class UsageError(Exception):
    """Something on the command line is wrong: one sentence, exit status 2."""


def broker_from_url(url: str) -> Broker[Any]:
    """The broker object for `url`. Raises `UsageError` for an unknown scheme or an adapter that is not installed."""
    scheme = url.partition("://")[0]
    if "://" not in url or scheme not in ADAPTERS:
        known = ", ".join(f"{scheme}://" for scheme in ADAPTERS)
        raise UsageError(f"{hide_credentials(url)!r} is not a broker URL: it must begin with one of {known}")
    module, name = ADAPTERS[scheme]
    _put_working_directory_last()
    try:
        adapter = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(str(error)) from None
    broker: Broker[Any] = getattr(adapter, name)(url)
    return broker


def load(targets: Sequence[str], broker_url: str | None) -> Runtime:
    """The one `Runtime` in the modules, or one made of their routers and `broker_url`. Raises `UsageError`."""
    found = [_find(target) for target in targets]
    runtimes = list(dict.fromkeys(r for runtimes, _ in found for r in runtimes))
    routers = list(dict.fromkeys(r for _, routers in found for r in routers))
    names = ", ".join(targets)
    if len(runtimes) > 1:
        raise UsageError(f"{names} hold {len(runtimes)} Runtimes, and one can be run: name it as MODULE:ATTR")
    if runtimes:
        (app,) = runtimes
        if broker_url is not None:
            raise UsageError(f"{names} has a Runtime with brokers of its own, so --broker has no place")
        if any(not runtimes and any(r not in app.routers for r in routers) for runtimes, routers in found):
            raise UsageError(f"{names} hold a Runtime and routers that it does not include: include them in the module")
        return app
    if not routers:
        raise UsageError(f"{names} holds no Runtime and no Router: there is nothing to run")
    broker = broker_from_url("memory://" if broker_url is None else broker_url)
    app = Runtime(broker)
    for router in routers:
        app.include(router, broker)
    return app


def _find(target: str) -> tuple[list[Runtime], list[Router]]:
    """The runtimes in a module, or, where there are none, its routers."""
    name, _, attribute = target.partition(":")
    module = _import(name)
    if attribute:
        try:
            thing = getattr(module, attribute)
        except AttributeError:
            raise UsageError(f"module {name} has no {attribute!r}") from None
        if isinstance(thing, Runtime):
            return [thing], []
        if isinstance(thing, Router):
            return [], [thing]
        raise UsageError(f"{target} is a {type(thing).__name__}: only a Runtime or a Router can be run")
    things = list(vars(module).values())
    runtimes = [thing for thing in things if isinstance(thing, Runtime)]
    return runtimes, [] if runtimes else [thing for thing in things if isinstance(thing, Router)]


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        hint = name.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(f"{name!r} is not a module name: write it with dots, like {hint or 'package.module'}")
    _put_working_directory_last()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        _explain_clash(name, error, os.getcwd())
        if isinstance(error, ModuleNotFoundError) and error.name and (name + ".").startswith(error.name + "."):
            raise UsageError(f"there is no module {error.name} here, nor on Python's path") from None
        raise


def _put_working_directory_last() -> None:
    """Import from the working directory too, but such that a user's own `runtime` or `adapters` does not shadow ours."""
    here = os.getcwd()
    # It may be there already: `python -m runtime` and PYTHONPATH=. put it first.
    sys.path[:] = [path for path in sys.path if path not in ("", here)] + [here]


def _explain_clash(name: str, error: ImportError, here: str) -> None:
    """A user's own `runtime` or `adapters` cannot be imported beside ours; say so instead of what Python says."""
    top = (error.name or "").partition(".")[0]
    if top not in ("runtime", "adapters"):
        return
    ours = [os.path.realpath(path) for path in sys.modules[top].__path__] if top in sys.modules else []
    theirs = next((path for path in (f"{here}/{top}", f"{here}/{top}.py") if os.path.exists(path)), None)
    if theirs is not None and os.path.realpath(theirs) not in ours:
        kind = "folder" if os.path.isdir(theirs) else "file"
        raise UsageError(
            f"importing {name} needs your own {kind} {os.path.relpath(theirs, here)!r}, but that name belongs to the "
            "runtime: rename yours"
        ) from None
