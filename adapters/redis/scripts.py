"""The Lua scripts: what must look at an entry's owner and act on it in one step.

Entries waiting for redelivery belong to a consumer of their own, `PARKED`, one per group. So what a living consumer owns
is exactly what it holds or has lost sight of, a finished one can be removed without losing anything, and
`XINFO CONSUMERS` shows how much waits for another attempt.
"""

from typing import Final

from .wire import Argument, Command

PARKED: Final = "~released"

#: KEYS: stream. ARGV: group, consumer, ids…  Renews the lease of each id that is still the consumer's; returns the others.
#: A plain XCLAIM would steal back what others took over while this process was frozen.
RENEW: Final = """
local lost = {}
for i = 3, #ARGV do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if row and row[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""

#: KEYS: stream. ARGV: group, consumer, parked, then (id, idle in ms, attempts) for each.  Parks what is the consumer's.
PARK: Final = """
for i = 4, #ARGV, 3 do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if row and row[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i],
               'IDLE', ARGV[i + 1], 'RETRYCOUNT', ARGV[i + 2], 'JUSTID')
  end
end
return 'OK'
"""

#: KEYS: stream. ARGV: group, consumer, parked, idle in ms, most, held ids…  Parks what the consumer owns and does not
#: hold: entries that the server handed out while a read was being cancelled. Nobody saw them, so they keep their count.
PARK_STRAYS: Final = """
local held = {}
for i = 6, #ARGV do held[ARGV[i]] = true end
local parked = 0
for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[5], ARGV[2])) do
  if not held[row[1]] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, row[1],
               'IDLE', ARGV[4], 'RETRYCOUNT', math.max(row[4] - 1, 0), 'JUSTID')
    parked = parked + 1
  end
end
return parked
"""

#: KEYS: stream, where to set aside. ARGV: group, id, fields and values…  The XACK's answer makes it safe to repeat.
REJECT: Final = """
local acked = redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if acked == 1 then redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3)) end
return acked
"""

#: KEYS: stream. ARGV: group, consumer.  Removing a consumer drops what it has pending, so only one that has nothing.
RETIRE: Final = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
"""


def evaluate(script: str, keys: list[str], *arguments: Argument) -> Command:
    """The command that runs `script`."""
    return ["EVAL", script, len(keys), *keys, *arguments]
