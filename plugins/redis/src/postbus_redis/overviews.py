"""What looks over a whole queue inside Redis, in Lua; with the same keys as `scripts`."""

from __future__ import annotations

from postbus_redis.scripts import NOW, Script

# Arguments: entries to keep. Deletes the oldest ones beyond, as far as all groups have settled them; returns how many
# too many are left.
TRIM = Script(
    """
local surplus = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[1])
if surplus <= 0 then
    return 0
end
local function parse(id)
    local milliseconds, number = string.match(id, '(%d+)-(%d+)')
    return tonumber(milliseconds), tonumber(number)
end
local function before(a, b)
    local a1, a2 = parse(a)
    local b1, b2 = parse(b)
    return a1 < b1 or (a1 == b1 and a2 < b2)
end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then
    return surplus
end
local settled = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', math.min(surplus, 1000))) do
    settled[#settled + 1] = entry[1]
end
for _, fields in ipairs(groups) do
    local group = {}
    for i = 1, #fields, 2 do
        group[fields[i]] = fields[i + 1]
    end
    local first = group.pending > 0 and redis.call('XPENDING', KEYS[1], group.name)[2]
    while #settled > 0 do
        local id = settled[#settled]
        if not before(group['last-delivered-id'], id) and (not first or before(id, first)) then
            break
        end
        settled[#settled] = nil
    end
end
if #settled > 0 then
    redis.call('XDEL', KEYS[1], unpack(settled))
end
return surplus - #settled
"""
)

# What is there: the last id that was delivered, how many are pending and waiting, and whether there are other groups.
_STATE = """
local function state()
    local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
    if groups.err and not string.find(groups.err, 'no such key') then
        error(groups)
    end
    local found = {pending = 0, exists = false, alone = true}
    found['last-delivered-id'] = '0-0'
    for _, fields in ipairs(groups.err and {} or groups) do
        local group = {alone = #groups == 1, exists = true}
        for i = 1, #fields, 2 do
            group[fields[i]] = fields[i + 1]
        end
        if group.name == ARGV[1] then
            found = group
        else
            found.alone = false
        end
    end
    found.first = redis.call('XRANGE', KEYS[1], '(' .. found['last-delivered-id'], '+', 'COUNT', 1)[1]
    -- Where entries were deleted before they were delivered, Redis does not know its lag, or has it too high.
    local rest = math.max(1, redis.call('XLEN', KEYS[1]) - found.pending)
    found.waiting = found.first and math.min(found.lag or rest, rest) or 0
    return found
end
"""

# Arguments: group, name of the consumer of what was released. Returns how many are waiting, delayed and in flight, and
# the age of the oldest waiting one in milliseconds, or -1.
COUNT = Script(
    NOW
    + _STATE
    + """
local found = state()
local released, oldest = 0, now + 1
local function note(since)
    oldest = math.min(oldest, math.max(0, tonumber(since)))
end
local function note_id(id)
    note(string.match(id, '^%d+'))
end
if found.exists then
    for _, consumer in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1])[4] or {}) do
        if consumer[1] == ARGV[2] then
            released = tonumber(consumer[2])
            note_id(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])[1][1])
        end
    end
end
if found.first then
    note_id(found.first[1])
end
local text = string.format('%.3f', now)
local due = redis.call('ZRANGE', KEYS[2], '-inf', text, 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2]
if due then
    note(due)
end
local is_due = redis.call('ZCOUNT', KEYS[2], '-inf', text)
return {
    found.waiting + released + is_due,
    redis.call('ZCARD', KEYS[2]) - is_due,
    found.pending - released,
    oldest > now and -1 or math.floor(now - oldest)
}
"""
)

# Arguments: group. Returns how many were deleted. The group goes on behind what was there.
PURGE = Script(
    _STATE
    + """
local found = state()
local purged = found.waiting + found.pending + redis.call('ZCARD', KEYS[2])
redis.call('UNLINK', KEYS[2])
if found.exists then
    local stream = redis.call('XINFO', 'STREAM', KEYS[1])
    local last
    for i = 1, #stream, 2 do
        if stream[i] == 'last-generated-id' then
            last = stream[i + 1]
        end
    end
    redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
    redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], last)
end
if found.alone then
    redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
end
return purged
"""
)

FOR_QUEUES = (TRIM, COUNT, PURGE)
"""All of them."""
