package cache

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by SHA-1
	"encoding/hex"
	"strconv"

	"github.com/redis/rueidis"
)

// Script is a Lua script that runs in Redis as one step. Its keys share a hash tag.
type Script struct{ source, sha string }

// NewScript prepares a script. Nothing is sent before it runs.
func NewScript(source string) *Script {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // Redis names scripts by SHA-1
	return &Script{source, hex.EncodeToString(sum[:])}
}

// Run is one run of a script.
type Run struct{ Keys, Args []string }

// Exec runs the script; it is sent in full only where Redis does not know it yet.
func (sc *Script) Exec(ctx context.Context, c *Client, keys []string, args ...string) (Reply, error) {
	if err := sameTag(keys); err != nil {
		return Reply{}, err
	}
	ctx, s, err := c.begin(ctx, opScript)
	if err != nil {
		return Reply{}, err
	}
	run := Run{keys, args}
	r := s.link.Do(ctx, sc.build(s.link.B(), run, true))
	if isNoScript(r) {
		r = s.link.Do(ctx, sc.build(s.link.B(), run, false))
	}
	return s.reply(r)
}

// ExecMany runs the script several times in one round trip, each for itself, in any slots.
func (sc *Script) ExecMany(ctx context.Context, c *Client, runs []Run) ([]Result, error) {
	for _, r := range runs {
		if err := sameTag(r.Keys); err != nil {
			return nil, err
		}
	}
	if len(runs) == 0 {
		return nil, nil
	}
	ctx, s, err := c.begin(ctx, opScript)
	if err != nil {
		return nil, err
	}
	cmds := make([]rueidis.Completed, len(runs))
	for i, r := range runs {
		cmds[i] = sc.build(s.link.B(), r, true)
	}
	rs := s.link.DoMulti(ctx, cmds...)
	var again []int
	cmds = cmds[:0]
	for i, r := range rs {
		if isNoScript(r) {
			again = append(again, i)
			cmds = append(cmds, sc.build(s.link.B(), runs[i], len(again) > 1 && !c.cfg.Cluster))
		}
	}
	for i, r := range s.link.DoMulti(ctx, cmds...) {
		rs[again[i]] = r
	}
	return s.results(rs)
}

func (sc *Script) build(b rueidis.Builder, r Run, bySHA bool) rueidis.Completed {
	a := b.Arbitrary("EVAL").Args(sc.source)
	if bySHA {
		a = b.Arbitrary("EVALSHA").Args(sc.sha)
	}
	return a.Args(strconv.Itoa(len(r.Keys))).Keys(r.Keys...).Args(r.Args...).Build()
}

func isNoScript(r rueidis.RedisResult) bool {
	e, ok := rueidis.IsRedisErr(r.Error())
	return ok && e.IsNoScript()
}
