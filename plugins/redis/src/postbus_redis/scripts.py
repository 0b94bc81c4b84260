"""What happens inside Redis, in Lua: each script is one atomic step on the keys of one queue.

Their keys are the stream, the delayed set and the stream of wake-ups; see `keys`. Times are Redis' own.
"""

from __future__ import annotations

from hashlib import sha1

from postbus_redis.resp import pack

RELEASED = b"(released)"
"""The consumer that holds what was given back, until somebody claims it."""

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
"""

# A message is held as long as the group's list says so: by whom, and delivered how often. A lease that was lost
# shows in one or the other.
_HELD = """
local function held(id, count)
    local found = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
    return found and found[2] == ARGV[2] and found[4] == tonumber(count)
end
"""

# Full memory must not undo the step that somebody is woken for.
_WAKE = """
local function wake()
    redis.pcall('XADD', KEYS[3], 'MAXLEN', 1, '*', 'wake', '')
end
"""

_DELAY = (
    NOW
    + _WAKE
    + """
local function delay(member, milliseconds)
    local due = math.ceil(now + milliseconds)
    local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
    redis.call('ZADD', KEYS[2], string.format('%.0f', due), member)
    if not first or due < tonumber(first) then
        wake()
    end
    return string.format('%.0f', due)
end
"""
)


class Script:
    """A script under the name by which Redis knows it once it was loaded."""

    def __init__(self, source: str) -> None:
        text = source.encode()
        self.load = pack(b"SCRIPT", b"LOAD", text)
        self._sha = sha1(text, usedforsecurity=False).hexdigest().encode()

    def __call__(self, keys: tuple[bytes, ...], *arguments: bytes) -> bytes:
        """Return the command that runs it."""
        return pack(b"EVALSHA", self._sha, b"%d" % len(keys), *keys, *arguments)


# Arguments: milliseconds, member. Returns when it is due.
DELAY = Script(_DELAY + "return delay(ARGV[2], tonumber(ARGV[1]))")

# Arguments: group, name of the consumer of what was released, how many to move, wake-ups that were taken in.
# Moves what is due into the stream; returns the milliseconds until the next is due, or -1, and whether there is
# something released. What cannot be moved, because the memory is full, stays.
LOOK = Script(
    NOW
    + """
local released = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
local function first()
    return tonumber(redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2])
end
local next_due, is_full = first(), false
if next_due and next_due <= now then
    local due = redis.call('ZRANGE', KEYS[2], '-inf', string.format('%.3f', now), 'BYSCORE', 'LIMIT', 0, ARGV[3])
    for _, member in ipairs(due) do
        is_full = redis.pcall('XADD', KEYS[1], '*', 'message', member).err
        if is_full then
            break
        end
        redis.call('ZREM', KEYS[2], member)
    end
    next_due = first()
end
-- Last, because Redis lets a script that has written something add whatever it likes to a full memory.
for i = 4, #ARGV do
    redis.call('XACK', KEYS[3], ARGV[1], ARGV[i])
    redis.call('XDEL', KEYS[3], ARGV[i])
end
if is_full then
    return {1000, #released}
end
return {next_due and math.max(0, math.ceil(next_due - now)) or -1, #released}
"""
)

# Arguments: group, consumer, name of the consumer of what was released, limit, milliseconds of a lease or -1, cursor.
# Claims what was released, then what has been idle for longer than a lease, of which it looks at about ten thousand.
# Returns the cursor to go on from, and for each message its id, how often it has been delivered, and its fields.
CLAIM = Script(
    _WAKE
    + """
local limit, claimed, cursor = tonumber(ARGV[4]), {}, '0-0'
local released = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', limit, ARGV[3])
for _, pending in ipairs(released) do
    local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1])[1]
    if entry then
        claimed[#claimed + 1] = {entry[1], pending[4] + 1, entry[2]}
    end
end
if #released == limit and #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[3]) > 0 then
    wake()
end
if ARGV[5] ~= '-1' then
    cursor = ARGV[6]
    for _ = 1, math.ceil(1000 / limit) do
        if #claimed == limit then
            break
        end
        local found = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[5], cursor, 'COUNT', limit - #claimed)
        for _, entry in ipairs(found[2]) do
            local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)[1]
            claimed[#claimed + 1] = {entry[1], pending[4], entry[2]}
        end
        cursor = found[1]
        if cursor == '0-0' then
            break
        end
    end
end
return {cursor, claimed}
"""
)

# Arguments: group, consumer, then id and count of each. Claims again what this consumer was given in replies that never
# came, which counts as no delivery; returns the same as above for each message.
RECOVER = Script(
    _HELD
    + """
local claimed = {}
for i = 3, #ARGV, 2 do
    if held(ARGV[i], ARGV[i + 1]) then
        local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1])[1]
        if entry then
            claimed[#claimed + 1] = {entry[1], tonumber(ARGV[i + 1]), entry[2]}
        end
    end
end
return claimed
"""
)

# Arguments: group, consumer, whether to delete, then id and count of each. Returns the positions of the lost ones.
SETTLE = Script(
    _HELD
    + """
local lost = {}
for i = 4, #ARGV, 2 do
    local id, count = ARGV[i], ARGV[i + 1]
    if not held(id, count) or redis.call('XACK', KEYS[1], ARGV[1], id) == 0 then
        lost[#lost + 1] = (i - 4) / 2
    elseif ARGV[3] == '1' then
        redis.call('XDEL', KEYS[1], id)
    end
end
return lost
"""
)

# The same for what is held for certain, without counts. All at once is fast, and tells only how many were there: if
# not all were, what can still be deleted is not lost. So what was handled is deleted also if the group has forgotten
# it, and does not come again from one that was made anew.
SETTLE_CERTAIN = Script("""
local deletes = ARGV[3] == '1'
if deletes then
    local acked = 0
    for i = 4, #ARGV, 1000 do
        acked = acked + redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
    end
    if acked == #ARGV - 3 then
        for i = 4, #ARGV, 1000 do
            redis.call('XDEL', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
        end
        return {}
    end
end
local lost = {}
for i = 4, #ARGV do
    local id = ARGV[i]
    if (deletes and redis.call('XDEL', KEYS[1], id) or redis.call('XACK', KEYS[1], ARGV[1], id)) == 0 then
        lost[#lost + 1] = i - 4
    end
end
return lost
""")

# Arguments: group, consumer, name of the consumer of what was released, then id and count of each. Returns the
# positions of those that are lost. What was released looks as if it had been idle for ever, so that other clients of
# the group claim it too.
RELEASE = Script(
    _HELD
    + _WAKE
    + """
local some, lost = false, {}
for i = 4, #ARGV, 2 do
    if not held(ARGV[i], ARGV[i + 1]) then
        lost[#lost + 1] = (i - 4) / 2
    else
        redis.call(
            'XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i], 'TIME', 0, 'RETRYCOUNT', ARGV[i + 1] - 1, 'JUSTID'
        )
        some = true
    end
end
if some then
    wake()
end
return lost
"""
)

# Arguments: group, consumer, then id and count of each. Returns the positions of those that are lost.
KEEPALIVE = Script(
    _HELD
    + """
local lost = {}
for i = 3, #ARGV, 2 do
    if not held(ARGV[i], ARGV[i + 1]) then
        lost[#lost + 1] = (i - 3) / 2
    else
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
    end
end
return lost
"""
)

# Arguments: group, consumer, id, count, whether to delete, milliseconds or 0, copy. Returns the id of the copy, or when
# it is due; nil if the lease was lost.
REPLACE = Script(
    _HELD
    + _DELAY
    + """
if not held(ARGV[3], ARGV[4]) then
    return false
end
local id
if ARGV[6] == '0' then
    id = redis.call('XADD', KEYS[1], '*', 'message', ARGV[7])
else
    id = delay(ARGV[7], tonumber(ARGV[6]))
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] == '1' then
    redis.call('XDEL', KEYS[1], ARGV[3])
end
return id
"""
)

# Arguments: group, milliseconds, names of consumers to keep. Removes consumers that hold nothing and have been idle
# for longer: together with one that holds something, that would be forgotten.
SWEEP = Script(
    """
for position, key in ipairs({KEYS[1], KEYS[3]}) do
    for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', key, ARGV[1])) do
        local consumer = {}
        for i = 1, #fields, 2 do
            consumer[fields[i]] = fields[i + 1]
        end
        local idle = consumer.idle >= tonumber(ARGV[2])
        if idle and consumer.name ~= ARGV[3] and (position == 2 or consumer.pending == 0) then
            redis.call('XGROUP', 'DELCONSUMER', key, ARGV[1], consumer.name)
        end
    end
end
"""
)

# Arguments: group, consumer. Removes one that holds nothing.
LEAVE = Script(
    """
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if not pending.err and #pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    redis.pcall('XGROUP', 'DELCONSUMER', KEYS[3], ARGV[1], ARGV[2])
end
"""
)
FOR_MESSAGES = (DELAY, LOOK, CLAIM, RECOVER, SETTLE, SETTLE_CERTAIN, RELEASE, KEEPALIVE, REPLACE, SWEEP, LEAVE)
"""All of them."""
