"""The embedded broker: in this process, no server, no persistence. The reference implementation of the contract.

It behaves like a log with consumer groups. Every group gets every message of a topic once; the members of a group share
them. What a member took and did not settle when its session ends is delivered again.
"""

from .broker import MemoryBroker as MemoryBroker
from .server import MemoryServer as MemoryServer
from .topics import Topic as Topic
