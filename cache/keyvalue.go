package cache

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// GetBytes reads key; false if it is not there. The slice belongs to the caller and must not be written to.
func (c *Client) GetBytes(ctx context.Context, key string) ([]byte, bool, error) {
	ctx, s, err := c.begin(ctx, opGet)
	if err != nil {
		return nil, false, err
	}
	b, err := s.link.Do(ctx, s.link.B().Get().Key(key).Build()).AsBytes()
	hit := err == nil
	if err = s.end(err); err != nil {
		return nil, false, err
	}
	c.metrics.found(hit)
	return b, hit, nil
}

// Get reads key; false if it is not there.
func (c *Client) Get(ctx context.Context, key string) (string, bool, error) {
	b, ok, err := c.GetBytes(ctx, key)
	return string(b), ok, err
}

// GetMany reads keys in one round trip; the answers are in the order of keys, nil where there is none.
func (c *Client) GetMany(ctx context.Context, keys []string) ([][]byte, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	ctx, s, err := c.begin(ctx, opGetMany)
	if err != nil {
		return nil, err
	}
	var msgs []rueidis.RedisMessage
	if c.cfg.Cluster {
		msgs, err = s.getEach(ctx, keys)
	} else {
		msgs, err = s.link.Do(ctx, s.link.B().Mget().Key(keys...).Build()).ToArray()
	}
	values := make([][]byte, len(msgs))
	for i := range msgs {
		if err == nil && !msgs[i].IsNil() {
			values[i], err = msgs[i].AsBytes()
		}
	}
	if err = s.end(err); err != nil {
		return nil, err
	}
	for _, v := range values {
		c.metrics.found(v != nil)
	}
	return values, nil
}

// getEach reads keys of any slots.
func (s *call) getEach(ctx context.Context, keys []string) ([]rueidis.RedisMessage, error) {
	gets := make([]rueidis.Completed, len(keys))
	for i, k := range keys {
		gets[i] = s.link.B().Get().Key(k).Build()
	}
	msgs := make([]rueidis.RedisMessage, len(keys))
	for i, r := range s.link.DoMulti(ctx, gets...) {
		var err error
		if msgs[i], err = r.ToMessage(); err != nil && !rueidis.IsRedisNil(err) {
			return nil, err
		}
	}
	return msgs, nil
}

// Set writes key for ttl; 0 means for ever.
func (c *Client) Set(ctx context.Context, key, value string, ttl time.Duration) error {
	ctx, s, err := c.begin(ctx, opSet)
	if err != nil {
		return err
	}
	cmd := s.link.B().Set().Key(key).Value(value)
	if ttl > 0 {
		return s.end(s.link.Do(ctx, cmd.PxMilliseconds(millis(ttl)).Build()).Error())
	}
	return s.end(s.link.Do(ctx, cmd.Build()).Error())
}

// SetNew writes key for ttl unless it is there, and reports whether it did.
func (c *Client) SetNew(ctx context.Context, key, value string, ttl time.Duration) (bool, error) {
	ctx, s, err := c.begin(ctx, opSet)
	if err != nil {
		return false, err
	}
	err = s.link.Do(ctx, s.link.B().Set().Key(key).Value(value).Nx().PxMilliseconds(millis(ttl)).Build()).Error()
	return err == nil, s.end(err)
}

// Del removes keys and returns how many were there.
func (c *Client) Del(ctx context.Context, keys ...string) (int64, error) {
	return c.countKeys(ctx, opDel, "DEL", keys)
}

// Exists returns how many of keys are there.
func (c *Client) Exists(ctx context.Context, keys ...string) (int64, error) {
	return c.countKeys(ctx, opExists, "EXISTS", keys)
}

// countKeys sums up a command over keys, which in a cluster may be of any slots.
func (c *Client) countKeys(ctx context.Context, o op, name string, keys []string) (int64, error) {
	if len(keys) == 0 {
		return 0, nil
	}
	ctx, s, err := c.begin(ctx, o)
	if err != nil {
		return 0, err
	}
	if !c.cfg.Cluster {
		n, e := s.link.Do(ctx, s.link.B().Arbitrary(name).Keys(keys...).Build()).AsInt64()
		return n, s.end(e)
	}
	cmds := make([]rueidis.Completed, len(keys))
	for i, k := range keys {
		cmds[i] = s.link.B().Arbitrary(name).Keys(k).Build()
	}
	var total int64
	for _, r := range s.link.DoMulti(ctx, cmds...) {
		n, e := r.AsInt64()
		if e != nil {
			err = e
		}
		total += n
	}
	return total, s.end(err)
}

// Expire makes key vanish after ttl and reports whether it is there.
func (c *Client) Expire(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	ctx, s, err := c.begin(ctx, opExpire)
	if err != nil {
		return false, err
	}
	n, err := s.link.Do(ctx, s.link.B().Pexpire().Key(key).Milliseconds(millis(ttl)).Build()).AsInt64()
	return n == 1, s.end(err)
}

// TTL returns how long key still lives: 0 if it never vanishes; false if it is not there.
func (c *Client) TTL(ctx context.Context, key string) (time.Duration, bool, error) {
	ctx, s, err := c.begin(ctx, opTTL)
	if err != nil {
		return 0, false, err
	}
	ms, err := s.link.Do(ctx, s.link.B().Pttl().Key(key).Build()).AsInt64()
	if err = s.end(err); err != nil {
		return 0, false, err
	}
	return time.Duration(max(ms, 0)) * time.Millisecond, ms != -2, nil
}

// Incr adds by to the number at key and returns the sum. A key that is not there counts as 0.
func (c *Client) Incr(ctx context.Context, key string, by int64) (int64, error) {
	ctx, s, err := c.begin(ctx, opIncr)
	if err != nil {
		return 0, err
	}
	n, err := s.link.Do(ctx, s.link.B().Incrby().Key(key).Increment(by).Build()).AsInt64()
	return n, s.end(err)
}

// millis is d in milliseconds, at least 1: Redis has no shorter life, and 0 would be an error.
func millis(d time.Duration) int64 { return max(d.Milliseconds(), 1) }

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
