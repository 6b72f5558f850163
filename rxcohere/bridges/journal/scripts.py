"""What `RedisJournal` does in one step each: Lua, run by the server.

``KEYS`` are the stream's events, its lease and the request to abort it, in this order. The events
are a Redis Stream whose ids are the journal's own: ``0-1`` when it begins, ``n-0`` for the n-th
event, ``n-2`` for the verdict after n of them. So a place is a number, and a hole shows.

Each may be run again when its answer was lost, and does nothing the second time.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script, and what the server calls it."""

    text: str
    sha: str


def _script(body: str) -> Script:
    return Script(body, hashlib.sha1(body.encode(), usedforsecurity=False).hexdigest())


# The last record: how many events there are, and whether a verdict is after them.
_TOP = """
local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local count = top and tonumber(string.match(top[1], '^%d+'))
local ended = top and top[2][1] == 'v'
"""

BEGIN = _script("""
local token, lease, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first then
  return first[2][2] == token and 1 or 0
end
redis.call('XADD', KEYS[1], '0-1', 'b', token)
redis.call('PEXPIRE', KEYS[1], lease + keep)
redis.call('SET', KEYS[2], token, 'PX', lease)
redis.call('DEL', KEYS[3])
return 1
""")
"""Begins a stream: 1, or 0 if there is one. ``ARGV``: a token, lease and keep in ms."""

APPEND = _script(
    _TOP
    + """
local at, keep, most, before = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), 3
local added = #ARGV - before
if not top then
  return {'none', 0}
elseif ended or redis.call('EXISTS', KEYS[2]) == 0 then
  return {'ended', count}
elseif count == at + added then
  return {'done', count}
elseif count ~= at then
  return {'gap', count}
elseif at + added > most then
  return {'full', count}
end
for i = 1, added do
  redis.call('XADD', KEYS[1], string.format('%d-0', at + i), 'e', ARGV[before + i])
end
redis.call('PEXPIRE', KEYS[1], keep + redis.call('PTTL', KEYS[2]))
return {'done', at + added}
"""
)
"""Adds events. ``ARGV``: how many are before them, keep in ms, the most there may be, each event.

Gives a word, ``done none ended gap full``, and how many there are.
"""

RENEW = _script(
    _TOP
    + """
local lease, keep = tonumber(ARGV[1]), tonumber(ARGV[2])
if not top then
  return 'none'
elseif ended or redis.call('PEXPIRE', KEYS[2], lease) == 0 then
  return 'ended'
end
redis.call('PEXPIRE', KEYS[1], lease + keep)
return 'done'
"""
)
"""Makes the lease last from now. ``ARGV``: lease and keep in ms. Gives ``done none ended``."""

SETTLE = _script(
    _TOP
    + """
local verdict, abandoned, keep = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not top then
  return {'none', 0, 0, '', ''}
end
if ended then
  return {'ended', count, 0, top[2][2], ''}
end
local left = redis.call('PTTL', KEYS[2])
if left < 0 then
  verdict = abandoned
elseif verdict == '' then
  return {'done', count, left, '', redis.call('GET', KEYS[2])}
end
redis.call('XADD', KEYS[1], string.format('%d-2', count), 'v', verdict)
redis.call('DEL', KEYS[2])
redis.call('PEXPIRE', KEYS[1], keep)
redis.call('PEXPIRE', KEYS[3], keep)
return {'ended', count, 0, verdict, ''}
"""
)
"""Ends a stream, if its lease has run out, or if it is told how.

``ARGV``: the verdict, or nothing; the verdict on an abandoned stream; keep in ms. Gives a word,
``done none ended``, how many events there are, how many ms the lease lasts, the verdict, and the
token of one that has not ended.
"""

ABORT = _script("""
local reason, keep = ARGV[1], tonumber(ARGV[2])
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'none'
end
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('XADD', KEYS[3], '1-0', 'a', reason)
  redis.call('PEXPIRE', KEYS[3], math.max(keep, redis.call('PTTL', KEYS[1])))
end
return 'done'
""")
"""Asks for an abort. ``ARGV``: the reason, keep in ms. Gives ``done none``."""
