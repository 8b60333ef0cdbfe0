package feed

import (
	"context"
	"strconv"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/internal/wait"
)

// publishFrame adds a frame to a shard's stream, whose ids are sequence numbers. What is there already is ignored; what
// follows a hole is parked until the hole is filled. Without a head key the stream begins anew with any frame. It answers
// {1, head} for added, {0, head} for known, {2, head} for parked. Something else in the place of the stream, or an
// entry that no number could have led to, is removed.
const publishFrame = `
local first, last = tonumber(ARGV[1]), tonumber(ARGV[2])
local head = tonumber(redis.pcall('GET', KEYS[2]) or '') or -1
if head >= last then return {0, head} end
if head >= 0 and first > head + 1 then
  if redis.call('HLEN', KEYS[3]) < 64 then
    redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ':' .. ARGV[3])
    redis.call('PEXPIRE', KEYS[3], ARGV[5])
  end
  return {2, head}
end
local function add(f, l, frame)
  local keep = math.max(0, l - tonumber(ARGV[6]))
  local id = string.format('%.0f-0', l)
  local floor = string.format('%.0f', keep)
  local r = redis.pcall('XADD', KEYS[1], 'MINID', '~', floor, id, 'f', f, 'd', frame)
  if type(r) == 'table' and r.err then
    redis.call('DEL', KEYS[1])
    redis.call('XADD', KEYS[1], id, 'f', f, 'd', frame)
  end
  head = l
end
add(ARGV[1], last, ARGV[3])
while redis.call('EXISTS', KEYS[3]) == 1 do
  local f = string.format('%.0f', head + 1)
  local p = redis.call('HGET', KEYS[3], f)
  if not p then break end
  redis.call('HDEL', KEYS[3], f)
  local colon = string.find(p, ':', 1, true)
  add(f, tonumber(string.sub(p, 1, colon - 1)), string.sub(p, colon + 1))
end
redis.call('SET', KEYS[2], string.format('%.0f', head), 'PX', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {1, head}`

type scripts struct{ publish *cache.Script }

func newScripts() scripts { return scripts{cache.NewScript(publishFrame)} }

// publishLoop puts what was offered into Redis, all shards in one round trip. What fails is left to the sweepers.
func (f *Feed) publishLoop(ctx context.Context) {
	var buf []byte
	for f.out.wait(ctx) {
		var round []cache.Run
		var of []int
		epoch := f.epoch.Load()
		for shard, events := range f.out.take() {
			for _, run := range runs(events) {
				r, b, err := f.frame(epoch, shard, run, buf)
				buf = b
				if err != nil {
					f.cfg.Logger.ErrorContext(ctx, "a frame cannot be sealed", "err", err)
					f.counters.failed.Add(1)
					continue
				}
				round, of = append(round, r), append(of, shard)
			}
		}
		f.publish(ctx, round, of)
	}
}

func (f *Feed) frame(epoch int64, shard int, events []event.Event, buf []byte) (cache.Run, []byte, error) {
	key := cache.SyncLog(epoch, shard)
	first, last := events[0].Seq, events[len(events)-1].Seq
	buf = appendEvents(buf[:0], events)
	sealed, err := f.seal(key, span(first, last), buf)
	return cache.Run{
		Keys: []string{key, cache.SyncHead(epoch, shard), cache.SyncPark(epoch, shard)},
		Args: []string{
			strconv.FormatInt(first, 10), strconv.FormatInt(last, 10), string(sealed),
			strconv.FormatInt(cache.SyncTTL.Milliseconds(), 10), strconv.FormatInt(cache.SyncParkTTL.Milliseconds(), 10),
			strconv.Itoa(keepInRedis),
		},
	}, buf, err
}

func (f *Feed) publish(ctx context.Context, round []cache.Run, of []int) {
	const perTrip = 64
	for len(round) > 0 {
		n := min(len(round), perTrip)
		results, err := f.scripts.publish.ExecMany(ctx, f.cfg.Cache, round[:n])
		if err != nil {
			f.counters.failed.Add(int64(len(round)))
			return // Redis does not answer: nothing else would be
		}
		for i, r := range results {
			f.published(of[i], r)
		}
		round, of = round[n:], of[n:]
	}
}

func (f *Feed) published(shard int, r cache.Result) {
	list, err := r.Reply.List()
	if r.Err != nil || err != nil || len(list) != 2 {
		f.counters.failed.Add(1)
		return
	}
	status, _ := list[0].Int()
	head, _ := list[1].Int()
	switch status {
	case 1:
		f.counters.published.Add(1)
	case 0:
		f.counters.known.Add(1)
		if head > f.shards[shard].applied.Load() { // further than we are: is it true?
			f.repair[shard].Store(true)
			wait.Wake(f.look)
		}
	default:
		f.counters.parked.Add(1)
		f.repair[shard].Store(true)
		wait.Wake(f.look)
	}
}
