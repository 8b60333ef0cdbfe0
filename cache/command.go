package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/rueidis"

	"rootstream/errs"
)

// Cmd is a command by its parts, for what has no method of its own: Cmd{"ZADD", key}.With("1", "a"). In a cluster the
// first key decides the node.
type Cmd struct {
	Name string   // "SET"; two words, such as "OBJECT FREQ", go into Name and Args with Key empty
	Key  string   // empty for commands without a key
	Args []string // what follows the key
}

// With returns the command with further arguments.
func (m Cmd) With(args ...string) Cmd {
	m.Args = append(slices.Clip(m.Args), args...)
	return m
}

func (m Cmd) build(b rueidis.Builder) rueidis.Completed {
	a := b.Arbitrary(m.Name)
	if m.Key != "" {
		a = a.Keys(m.Key)
	}
	return a.Args(m.Args...).Build()
}

// Reply is what Redis answered.
type Reply struct{ msg rueidis.RedisMessage }

// IsNil reports a null reply: nothing there.
func (r Reply) IsNil() bool { return r.msg.IsNil() }

// Int reads a number.
func (r Reply) Int() (int64, error) { return r.msg.AsInt64() }

// Float reads a number with a fraction, also one written as text.
func (r Reply) Float() (float64, error) { return r.msg.AsFloat64() }

// Text reads text; "" for a null reply.
func (r Reply) Text() (string, error) {
	if r.IsNil() {
		return "", nil
	}
	return r.msg.ToString()
}

// Bytes reads text without copying it; nil for a null reply. The slice must not be written to.
func (r Reply) Bytes() ([]byte, error) {
	if r.IsNil() {
		return nil, nil
	}
	return r.msg.AsBytes()
}

// List reads an array; nil for a null reply.
func (r Reply) List() ([]Reply, error) {
	if r.IsNil() {
		return nil, nil
	}
	msgs, err := r.msg.ToArray()
	if err != nil {
		return nil, err
	}
	list := make([]Reply, len(msgs))
	for i, m := range msgs {
		list[i] = Reply{m}
	}
	return list, nil
}

// Strings reads an array of texts.
func (r Reply) Strings() ([]string, error) {
	if r.IsNil() {
		return nil, nil
	}
	return r.msg.AsStrSlice()
}

// Map reads names and values.
func (r Reply) Map() (map[string]string, error) {
	if r.IsNil() {
		return nil, nil //nolint:nilnil // no map is what a null reply says
	}
	return r.msg.AsStrMap()
}

// Result is the answer to one command of a pipeline.
type Result struct {
	Reply Reply
	Err   error
}

// Do runs one command.
func (c *Client) Do(ctx context.Context, cmd Cmd) (Reply, error) { return c.do(ctx, opOther, cmd) }

func (c *Client) do(ctx context.Context, o op, cmd Cmd) (Reply, error) {
	ctx, s, err := c.begin(ctx, o)
	if err != nil {
		return Reply{}, err
	}
	return s.reply(s.link.Do(ctx, cmd.build(s.link.B())))
}

func (s *call) reply(r rueidis.RedisResult) (Reply, error) {
	msg, err := r.ToMessage()
	return Reply{msg}, s.end(err)
}

// integer and text run a command whose answer has one shape.
func (c *Client) integer(ctx context.Context, o op, cmd Cmd) (int64, error) {
	r, err := c.do(ctx, o, cmd)
	if err != nil {
		return 0, err
	}
	return r.Int()
}

func (c *Client) text(ctx context.Context, o op, cmd Cmd) (string, bool, error) {
	r, err := c.do(ctx, o, cmd)
	if err != nil {
		return "", false, err
	}
	c.metrics.found(!r.IsNil())
	v, err := r.Text()
	return v, !r.IsNil(), err
}

// Pipeline runs commands in one round trip, each for itself; results are in their order.
func (c *Client) Pipeline(ctx context.Context, cmds ...Cmd) ([]Result, error) {
	if len(cmds) == 0 {
		return nil, nil
	}
	ctx, s, err := c.begin(ctx, opPipeline)
	if err != nil {
		return nil, err
	}
	built := make([]rueidis.Completed, len(cmds))
	for i, m := range cmds {
		built[i] = m.build(s.link.B())
	}
	return s.results(s.link.DoMulti(ctx, built...))
}

// results fails as a whole only if nothing was answered.
func (s *call) results(rs []rueidis.RedisResult) ([]Result, error) {
	out := make([]Result, len(rs))
	answered, lost := false, error(nil)
	for i, r := range rs {
		if err := r.NonRedisError(); err != nil {
			lost = err
			out[i].Err = ErrUnavailable.WithCause(err)
			continue
		}
		answered = true
		msg, err := r.ToMessage()
		out[i].Reply = Reply{msg}
		if err != nil && !rueidis.IsRedisNil(err) {
			out[i].Err = fmt.Errorf("redis %s: %w", s.op, err)
			if refusesAll(err.Error()) {
				out[i].Err = ErrUnavailable.WithCause(err)
			}
		}
	}
	if err := s.end(lost); err != nil && !answered {
		return nil, err
	}
	return out, nil
}

// Tx runs commands as one transaction (MULTI, EXEC): all of them, with nothing in between, or none. In a cluster their
// keys share a hash tag. ErrUnavailable leaves open whether it was carried out.
func (c *Client) Tx(ctx context.Context, cmds ...Cmd) ([]Reply, error) {
	if err := sameSlot(cmds); err != nil || len(cmds) == 0 {
		return nil, err
	}
	ctx, s, err := c.begin(ctx, opTx)
	if err != nil {
		return nil, err
	}
	return s.exec(s.link.DoMulti(ctx, transaction(s.link.B(), cmds)...))
}

func transaction(b rueidis.Builder, cmds []Cmd) []rueidis.Completed {
	built := make([]rueidis.Completed, 0, len(cmds)+2)
	built = append(built, b.Multi().Build())
	for _, m := range cmds {
		built = append(built, m.build(b))
	}
	return append(built, b.Exec().Build())
}

// exec reads the answers to a transaction: OK, QUEUED…, and the list of replies.
func (s *call) exec(rs []rueidis.RedisResult) ([]Reply, error) {
	last := len(rs) - 1
	for _, r := range rs[:last] {
		if err := r.Error(); err != nil {
			return nil, s.end(err) // EXEC then answers EXECABORT
		}
	}
	msgs, err := rs[last].ToArray()
	if rueidis.IsRedisNil(err) {
		_ = s.end(nil) // a conflict is an answer
		return nil, ErrTxConflict
	}
	replies := make([]Reply, len(msgs))
	for i := range msgs {
		if e := msgs[i].Error(); e != nil && !rueidis.IsRedisNil(e) {
			err = e
		}
		replies[i] = Reply{msgs[i]}
	}
	return replies, s.end(err)
}

// Watched reads while keys are being watched.
type Watched struct {
	ctx  context.Context //nolint:containedctx // lives as long as the watch
	call *call
	conn rueidis.DedicatedClient
}

// Do runs a command that reads.
func (w *Watched) Do(cmd Cmd) (Reply, error) {
	return w.call.reply(w.conn.Do(w.ctx, cmd.build(w.conn.B())))
}

// Watch runs the transaction that decide returns, unless one of keys changed since decide began to read:
// then ErrTxConflict. If decide returns no commands, or an error, nothing is written.
func (c *Client) Watch(ctx context.Context, keys []string, decide func(*Watched) ([]Cmd, error)) ([]Reply, error) {
	if err := sameTag(keys); err != nil {
		return nil, err
	}
	ctx, s, err := c.begin(ctx, opTx)
	if err != nil {
		return nil, err
	}
	conn, release := s.link.Dedicate()
	defer release()
	replies, err := s.watch(ctx, conn, keys, decide)
	if errors.Is(err, ErrUnavailable) {
		c.part(conn.Close) // an answer may still be on its way
	}
	return replies, err
}

func (s *call) watch(
	ctx context.Context, conn rueidis.DedicatedClient, keys []string, decide func(*Watched) ([]Cmd, error),
) ([]Reply, error) {
	if err := conn.Do(ctx, conn.B().Watch().Key(keys...).Build()).Error(); err != nil {
		return nil, s.end(err)
	}
	cmds, err := decide(&Watched{ctx, s, conn})
	if err == nil {
		err = sameSlot(cmds)
	}
	if err == nil && len(cmds) > 0 {
		return s.exec(conn.DoMulti(ctx, transaction(conn.B(), cmds)...))
	}
	if e := s.end(conn.Do(ctx, conn.B().Unwatch().Build()).Error()); e != nil {
		return nil, e
	}
	return nil, err
}

var errTags = errs.New(errs.Internal, "cache_cross_slot", "the keys of one script or transaction must share a hash tag")

func sameSlot(cmds []Cmd) error {
	keys := make([]string, 0, len(cmds))
	for _, m := range cmds {
		if m.Key != "" {
			keys = append(keys, m.Key)
		}
	}
	return sameTag(keys)
}

// sameTag is asked on a single server too, so that what works there works in a cluster.
func sameTag(keys []string) error {
	for i := 1; i < len(keys); i++ {
		if hashTag(keys[i]) != hashTag(keys[0]) {
			return errTags
		}
	}
	return nil
}
