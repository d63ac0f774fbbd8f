"""All claims in one class."""

from __future__ import annotations

from typing import ClassVar

import pytest

from .ending import Ending
from .faults import Faults
from .leases import Leases
from .messages import Messages
from .publishing import Publishing
from .receiving import Receiving
from .rig import Rig, conditions
from .running import Running
from .settling import Settling


class AdapterConformance(Messages, Publishing, Receiving, Settling, Leases, Ending, Running, Faults):
    """Subclass this, with a name that pytest collects, and say which rig."""

    rig_type: ClassVar[type[Rig]]

    @pytest.fixture
    def rig(self) -> Rig:
        """The rig of one test. Override it, also with an async fixture, for a rig that has to be given something."""
        return self.rig_type()

    # By the class and in a fixture that is not async: a skip from inside of Trio arrives without its reason.
    @pytest.fixture(autouse=True)
    def only_what_is_claimed(self, request: pytest.FixtureRequest) -> None:
        for condition in conditions(request.function):
            if (reason := condition(self.rig_type)) is not None:
                pytest.skip(reason)
