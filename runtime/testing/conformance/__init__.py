"""The conformance suite: what every adapter must do, as tests that an adapter's author runs on his own.

    from runtime.testing.conformance import AdapterConformance, Rig

Subclass `Rig` to say how to reach your broker, and `AdapterConformance` to have the tests; `docs/conformance.md` has a
complete example. The tests decide by the adapter's `Features` what to expect, never by its type. This package needs
pytest and pytest-trio; nothing else of `runtime` does.
"""

# General layout:
#
#   rig                                     the hooks that an adapter's author provides
#   client                                  plays the runtime's part towards the raw contract, and keeps its promises
#   leftovers, waiting                      what is left behind; waiting for what has no event
#   messages, publishing, receiving,        the claims about the raw contract, one theme a file
#   settling, leases, ending
#   running, faults                         the claims about the adapter under the real `Runtime`
#   suite                                   all of them in one class

import pkgutil

import pytest

# Before the modules are imported: a failing `assert` in them then shows its values, as in any test file.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from .rig import Rig as Rig
from .suite import AdapterConformance as AdapterConformance
