package stream

import (
	"github.com/google/uuid"

	"rootstream/cache"
)

// viewerKeys are all keys of a stream's viewers, in one slot:
//  1. sorted set: viewer → when it expires, in ms
//  2. hash: viewer → its ticket: "account joined-at-ms seal"
//  3. hash: session, total, peak; swept, claim; "of account" → how many viewers it is
//  4. list: joins and leaves to be written to PostgreSQL
//  5. list: those of them that somebody is writing just now
func viewerKeys(stream uuid.UUID) []string {
	viewers := cache.StreamViewers(stream)
	return []string{viewers, viewers + ":who", cache.StreamStats(stream), viewers + ":log", viewers + ":sent"}
}

// prelude is what all scripts share. Times are Redis' own, in milliseconds.
const prelude = `
local viewers, who, stats, log, sent = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function int(n) return string.format('%.0f', tonumber(n) or 0) end
local function count() return redis.call('ZCOUNT', viewers, '(' .. int(now), '+inf') end

-- note keeps a line for PostgreSQL; if nobody fetches them, the oldest go.
local function note(line)
	if redis.call('RPUSH', log, line) > 100000 then redis.call('LPOP', log) end
end

-- leave ends a viewer that was last seen at a time.
local function leave(viewer, at)
	local account = redis.call('HGET', who, viewer)
	redis.call('ZREM', viewers, viewer)
	redis.call('HDEL', who, viewer)
	if account then
		local of = 'of ' .. string.match(account, '^%S*')
		if redis.call('HINCRBY', stats, of, -1) <= 0 then redis.call('HDEL', stats, of) end
		note('l ' .. viewer .. ' ' .. int(at) .. ' ' .. account)
	end
end

-- expire ends some of the viewers that were not renewed.
local function expire(ttl, most)
	local gone = redis.call('ZRANGEBYSCORE', viewers, '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, most)
	for i = 1, #gone, 2 do leave(gone[i], math.max(tonumber(gone[i + 1]) - ttl, 0)) end
end

-- enter takes up the figures of a session: those of PostgreSQL for one not
-- known here. Viewers who stayed over from the last one count at once.
local function enter(session, total, peak)
	if redis.call('HGET', stats, 'session') == session then return end
	local n = count()
	redis.call('HSET', stats, 'session', session, 'total', int(total + n), 'peak', int(math.max(peak, n)))
end

-- keep lets all keys vanish a day after the last use.
local function keep()
	for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], 86400) end
end

-- own is the viewer's account line, if the viewer is there and the account's.
local function own(viewer, account)
	local line = redis.call('HGET', who, viewer)
	local till = redis.call('ZSCORE', viewers, viewer)
	if not line or not till or tonumber(till) <= now then return nil end
	if string.match(line, '^(%d+) ') ~= account then return nil end
	return line
end
`

// scripts are what runs in Redis.
type scripts struct{ join, renew, leave, figures, collect, acknowledge, forget *cache.Script }

func newScripts() scripts {
	return scripts{
		join: cache.NewScript(joinSource), renew: cache.NewScript(renewSource), leave: cache.NewScript(leaveSource),
		figures: cache.NewScript(figuresSource), collect: cache.NewScript(collectSource),
		acknowledge: cache.NewScript(acknowledgeSource), forget: cache.NewScript(forgetSource),
	}
}

const (
	joinSource = prelude + `
local ttl = tonumber(ARGV[1])
expire(ttl, 100)
enter(ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
local of = 'of ' .. ARGV[6]
if (tonumber(redis.call('HGET', stats, of)) or 0) >= tonumber(ARGV[7]) then return -1 end
redis.call('HINCRBY', stats, of, 1)
redis.call('ZADD', viewers, int(now + ttl), ARGV[5])
redis.call('HSET', who, ARGV[5], ARGV[8])
redis.call('HINCRBY', stats, 'total', 1)
local n = count()
if n > (tonumber(redis.call('HGET', stats, 'peak')) or 0) then redis.call('HSET', stats, 'peak', n) end
note('j ' .. ARGV[5] .. ' ' .. int(now) .. ' ' .. ARGV[8])
keep()
return n`

	renewSource = prelude + `
if not own(ARGV[2], ARGV[3]) then return 0 end
redis.call('ZADD', viewers, int(now + tonumber(ARGV[1])), ARGV[2])
keep()
return 1`

	leaveSource = prelude + `
if not own(ARGV[2], ARGV[3]) then return 0 end
leave(ARGV[2], now)
keep()
return 1`

	figuresSource = prelude + `
local f = redis.call('HMGET', stats, 'total', 'peak', 'session')
return {tostring(count()), f[1] or '0', f[2] or '0', f[3] or ''}`

	// collectSource is one stream's part of a sweep: figures, and lines to write. It
	// answers nothing if another instance swept just now, and it gives out
	// lines to one claimant at a time until they are acknowledged.
	collectSource = prelude + `
local ttl, live, every, claim, most = tonumber(ARGV[1]), ARGV[5] == '1', tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local f = redis.call('HMGET', stats, 'swept', 'claim')
if now < (tonumber(f[1]) or 0) + every then return {} end
redis.call('HSET', stats, 'swept', int(now))
expire(ttl, 1000)
if live then
	enter(ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
else
	for _, viewer in ipairs(redis.call('ZRANGE', viewers, 0, 999)) do leave(viewer, now) end
end
keep()
local lines, token = {}, ''
if now >= (tonumber(f[2]) or 0) then
	if redis.call('LLEN', sent) == 0 then
		local fresh = redis.call('LRANGE', log, 0, most - 1)
		if #fresh > 0 then
			redis.call('RPUSH', sent, unpack(fresh))
			redis.call('LTRIM', log, #fresh, -1)
		end
	end
	lines = redis.call('LRANGE', sent, 0, -1)
	if #lines > 0 then
		token = int(now + claim)
		redis.call('HSET', stats, 'claim', token)
	end
end
f = redis.call('HMGET', stats, 'total', 'peak', 'session')
local idle = '0'
if redis.call('EXISTS', viewers, log, sent) == 0 then idle = '1' end
local answer = {tostring(count()), f[1] or '0', f[2] or '0', f[3] or '', idle, token}
for i = 1, #lines do answer[#answer + 1] = lines[i] end
return answer`

	// acknowledgeSource drops the lines that were written, if the claim still holds,
	// and lets the next sweep come at once if there are more.
	acknowledgeSource = prelude + `
if redis.call('HGET', stats, 'claim') ~= ARGV[1] then return 0 end
redis.call('DEL', sent)
redis.call('HDEL', stats, 'claim')
if redis.call('LLEN', log) > 0 then redis.call('HDEL', stats, 'swept') end
return 1`

	forgetSource = `
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0`
)
