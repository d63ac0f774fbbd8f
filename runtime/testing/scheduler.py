"""Trio's scheduler made to repeat itself: the one place that reaches into Trio's private parts.

Trio runs the tasks that are ready in an order that it shuffles with a random generator of its own, so that nobody comes to
rely on one. A seed for that generator, and batches sorted before they are shuffled, replay the same order. Both are
module globals of Trio's; pytest-trio sets the same two for Hypothesis.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio


class NotReplayable(RuntimeError):
    """This version of Trio keeps its scheduler's generator somewhere else: tests run, but a seed cannot replay them."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The scheduling inside the block follows from `seed`; what was before comes back after.

    Raises `NotReplayable` for a Trio whose inner parts are not those that this knows (0.31 to 0.35).
    """
    module: Any = getattr(trio._core, "_run", None)
    generator = getattr(module, "_r", None)
    if not isinstance(generator, random.Random) or not hasattr(module, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        raise NotReplayable(f"trio {trio.__version__} has no scheduler that can be seeded: leave out seed=")
    state, sorts = generator.getstate(), module._ALLOW_DETERMINISTIC_SCHEDULING
    generator.seed(seed)
    module._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        module._ALLOW_DETERMINISTIC_SCHEDULING = sorts
        generator.setstate(state)
