"""`runtime run`."""

from __future__ import annotations

import argparse
import logging

from ..errors import ConfigurationError
from ..signals import Interrupted, Signals, run_until_signal
from .loading import UsageError, load

logger = logging.getLogger("runtime")


def run(options: argparse.Namespace) -> int:
    """Load, serve, drain. The signals are ours from before the import, so that no moment is without them."""
    with Signals() as signals:
        try:
            with signals.raising():
                app = load(options.modules, options.broker)
            if options.grace is not None:
                app.grace = options.grace
            return run_until_signal(app, signals)
        except Interrupted:
            return 0
        except (UsageError, ConfigurationError):
            raise
        except BaseException:
            # SystemExit and KeyboardInterrupt too: out of a module being imported or a handler, they are failures here.
            logger.exception("the runtime failed")
            return 1
