"""The test kit: structured tests of handlers, faults in virtual time, a sweep of cancels, conformance of adapters.

General layout: `world` is what a test holds, and puts the application's run into a world of its own. `line` is the way from
one broker object to its simulated `server`, with the faults on it; `session` meets the adapter contract over it. `record`
is what happened, and notices broken promises. `sweep` runs a scenario once for every point where it can be cancelled.
`conformance` is the suite for adapters; `plugin` is pytest's way in.
"""

from runtime.delivery import Ack as Ack, Reject as Reject, Release as Release

from .line import Line as Line
from .record import Call as Call, PromiseBroken as PromiseBroken, SetAside as SetAside, Settled as Settled
from .scheduler import NotReplayable as NotReplayable
from .sweep import Report as Report, SweepFailed as SweepFailed, Violation as Violation, sweep as sweep
from .world import World as World, open_test as open_test
