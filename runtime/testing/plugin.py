"""pytest's way in: the fixture `world`, and the timeline of a world whose test failed.

Registered by the package; it imports no other plugin and does nothing for a test that does not ask for it. The fixture is
async, so the test is one of pytest-trio's: marked `trio`, or under `trio_mode = true`. Ask for `autojump_clock` beside it
to make all waiting virtual.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from runtime.app import Runtime

from .world import World, open_test

_WORLD = pytest.StashKey[World]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "runtime(app=None, *, seed=None, collect_errors=False, plan=None): what the fixture `world` is opened with; "
        "without an app it is the value of the fixture `app`.",
    )


@pytest.fixture
def _world_arguments(request: pytest.FixtureRequest) -> tuple[Runtime, dict[str, Any]]:
    # Not part of `world`: that one runs inside of Trio, where no other fixture can be set up any more.
    mark = request.node.get_closest_marker("runtime")
    positional, options = (mark.args, dict(mark.kwargs)) if mark is not None else ((), {})
    app = positional[0] if positional else options.pop("app", None)
    if app is None:
        try:
            app = request.getfixturevalue("app")
        except pytest.FixtureLookupError:
            raise pytest.UsageError(
                "the fixture `world` needs an application: define a fixture `app` that returns a Runtime, or mark the "
                "test with @pytest.mark.runtime(app)"
            ) from None
    if not isinstance(app, Runtime):
        raise pytest.UsageError(f"the fixture `world` needs a Runtime, and got {app!r}")
    return app, options


@pytest.fixture
async def world(
    request: pytest.FixtureRequest, _world_arguments: tuple[Runtime, dict[str, Any]]
) -> AsyncIterator[World]:
    """The world of this test's application: `open_test` as a fixture."""
    app, options = _world_arguments
    async with open_test(app, **options) as world:
        request.node.stash[_WORLD] = world
        yield world


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    world = item.stash.get(_WORLD, None)
    if report.failed and world is not None:
        report.sections.append(("The world's timeline, in seconds", world.timeline()))
    return report
