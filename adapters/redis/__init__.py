"""Redis, over a Trio-native connection. Today: Streams with consumer groups.

On the wire an entry has the field `body`, and beside it, each only when set: `_id`, `_key`, `_type` (content type),
`_reply_to`, `_correlation`, `_time` and `_deadline` (seconds since the epoch). Every other field is a header under its own
name; a header whose name starts with `_` or is `body` travels as `_h:NAME`. The attempt is the group's delivery count.

An entry without a `body` was written by another program. Its one field's value is the body, or, of several, a JSON
object of all fields; its id is the entry's.
"""

try:
    import hiredis as _hiredis  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "adapters.redis needs hiredis, which comes with the redis extra: pip install 'trio-runtime[redis]'"
    ) from None

from .broker import RedisBroker as RedisBroker
from .streams import Stream as Stream
