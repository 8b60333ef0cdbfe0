package cache

import (
	"context"
	"maps"
	"slices"
	"strconv"
)

// HSet writes fields of the hash at key.
func (c *Client) HSet(ctx context.Context, key string, fields map[string]string) error {
	if len(fields) == 0 {
		return nil
	}
	args := make([]string, 0, 2*len(fields))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		args = append(args, name, fields[name])
	}
	_, err := c.do(ctx, opHash, Cmd{"HSET", key, args})
	return err
}

// HGet reads one field; false if it is not there.
func (c *Client) HGet(ctx context.Context, key, field string) (string, bool, error) {
	return c.text(ctx, opHash, Cmd{"HGET", key, []string{field}})
}

// HGetAll reads all fields; an empty map if there is no such hash.
func (c *Client) HGetAll(ctx context.Context, key string) (map[string]string, error) {
	r, err := c.do(ctx, opHash, Cmd{Name: "HGETALL", Key: key})
	if err != nil {
		return nil, err
	}
	return r.Map()
}

// HDel removes fields and returns how many were there.
func (c *Client) HDel(ctx context.Context, key string, fields ...string) (int64, error) {
	if len(fields) == 0 {
		return 0, nil
	}
	return c.integer(ctx, opHash, Cmd{"HDEL", key, fields})
}

// LPush puts values at the head of the list and returns its length.
func (c *Client) LPush(ctx context.Context, key string, values ...string) (int64, error) {
	if len(values) == 0 {
		return c.LLen(ctx, key)
	}
	return c.integer(ctx, opList, Cmd{"LPUSH", key, values})
}

// RPop takes the value at the tail of the list; false if the list is empty.
func (c *Client) RPop(ctx context.Context, key string) (string, bool, error) {
	return c.text(ctx, opList, Cmd{Name: "RPOP", Key: key})
}

// LLen is the length of the list.
func (c *Client) LLen(ctx context.Context, key string) (int64, error) {
	return c.integer(ctx, opList, Cmd{Name: "LLEN", Key: key})
}

// ZAdd sets the score of member in the sorted set and reports whether it is new.
func (c *Client) ZAdd(ctx context.Context, key, member string, score float64) (bool, error) {
	n, err := c.integer(ctx, opZSet, Cmd{"ZADD", key, []string{score64(score), member}})
	return n == 1, err
}

// ZRem removes members and returns how many were there.
func (c *Client) ZRem(ctx context.Context, key string, members ...string) (int64, error) {
	if len(members) == 0 {
		return 0, nil
	}
	return c.integer(ctx, opZSet, Cmd{"ZREM", key, members})
}

// ZCount counts the members with a score from low to high, both included; use math.Inf for open ends.
func (c *Client) ZCount(ctx context.Context, key string, low, high float64) (int64, error) {
	return c.integer(ctx, opZSet, Cmd{"ZCOUNT", key, []string{score64(low), score64(high)}})
}

// ZRemRange removes the members with a score from low to high and returns how many there were.
func (c *Client) ZRemRange(ctx context.Context, key string, low, high float64) (int64, error) {
	return c.integer(ctx, opZSet, Cmd{"ZREMRANGEBYSCORE", key, []string{score64(low), score64(high)}})
}

// ZRange returns the members with a score from low to high, lowest first.
func (c *Client) ZRange(ctx context.Context, key string, low, high float64) ([]string, error) {
	r, err := c.do(ctx, opZSet, Cmd{"ZRANGEBYSCORE", key, []string{score64(low), score64(high)}})
	if err != nil {
		return nil, err
	}
	return r.Strings()
}

func score64(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
