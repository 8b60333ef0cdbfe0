package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/session"
)

const postgresNote = `
Validation that trusts no cache (strong): 20 goroutines on a pool of 20 connections. The floor is pgbench with 20 clients
and prepared statements on the statement that the manager really sent, for rows that lie beside those we ask for.`

const createNote = `
Manager.Create in a transaction of its own, its event included, on accounts without a session: 20 goroutines, 20
connections, over a million sessions in the table. The floor is pgbench with 20 clients and the statements that were
really sent: begin, the lock on the account, the eviction and the insert in one pipeline, the lock of the shard, the
numbered event and commit in another; with ids in time order, as ours are.`

const eventNote = `
One event a transaction on 20,000 entities, 20 goroutines on 20 connections. The floor is pgbench with 20 clients and the
same statements in the same pipelines.`

// strong is the statement that reads one session.
func (s *stack) loadStatement(ctx context.Context) (string, error) {
	list, err := s.sent(ctx, func(db *postgres.DB) error {
		m, err := session.NewManager(session.Config{DB: db, Logger: quiet()})
		if err != nil {
			return err
		}
		_, err = m.Validate(ctx, s.data.tokens[0], session.ClientHint{Strong: true})
		return err
	})
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("a validation sent %d statements:\n%s", len(list), strings.Join(list, "\n"))
	}
	if err != nil {
		return "", err
	}
	return list[0], nil
}

func measurePostgres(ctx context.Context, s *stack) ([]row, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	statement, err := s.loadStatement(ctx)
	if err != nil {
		return nil, err
	}
	twins := len(s.data.tokens) / twinEvery
	script := fmt.Sprintf("\\set n random(1, %d)\n", twins) + filled(statement, "sha256(:n::text::bytea)")
	in, err := s.instance(ctx, nil)
	if err != nil {
		return nil, err
	}
	at := make([]stride, benchClients)
	for i := range at {
		at[i] = newStride(twins, i*twins/benchClients)
	}
	rates, err := alternate(
		ctx, s,
		side{rate: func(ctx context.Context, d time.Duration) (float64, error) {
			return closed(ctx, benchClients, d, func(ctx context.Context, worker int) error {
				_, failure := in.Validate(ctx, s.data.tokens[at[worker].next()*twinEvery+twinEvery-1], session.ClientHint{Strong: true})
				return failure
			})
		}},
		s.pgbenchSide(script),
	)
	if err = errors.Join(err, in.stop()); err != nil {
		return nil, err
	}
	return []row{compared("validate from PostgreSQL, to pgbench", rates[0], rates[1], 0.7)}, nil
}

// newSession is one sign-in of an account that has none yet.
func (s *stack) newSession(i int) session.New {
	return session.New{
		UserID: s.data.firstUser + int64(i%s.data.users), AMR: []string{"pwd"}, Device: session.Device{UserAgent: userAgent},
	}
}

// createScript is the floor of creating a session.
func (s *stack) createScript(ctx context.Context) (string, error) {
	list, err := s.sent(ctx, func(db *postgres.DB) error {
		m, err := session.NewManager(session.Config{DB: db, Logger: quiet()})
		if err != nil {
			return err
		}
		return db.InTx(ctx, func(tx *postgres.Tx) error {
			_, err := m.Create(ctx, tx, s.newSession(0))
			return err
		})
	})
	if err == nil && len(list) != 7 {
		err = fmt.Errorf("creating a session sent %d statements:\n%s", len(list), strings.Join(list, "\n"))
	}
	if err != nil {
		return "", err
	}
	const (
		id = `(lpad(to_hex((extract(epoch from now())*1000)::bigint),12,'0')||'7'||lpad(to_hex(:a::int),3,'0')||'8'||lpad(to_hex(:c::bigint),15,'0'))::uuid`
		// a key that no token has, as far apart as those of ours
		hash = `sha256((:a::text||'-'||:c::text)::bytea)`
	)
	return fmt.Sprintf("\\set u random(%d, %d)\n", s.data.firstUser, s.data.firstUser+int64(s.data.users)-1) +
		"\\set a random(0, 4095)\n\\set b random(0, 36028797018963967)\n\\set s random(0, 15)\n\\set c :b * 16 + :s\n" +
		"\\startpipeline\n" + filled(list[0]) + filled(list[1], ":u") + filled(list[2], ":u", "9") +
		filled(list[3], ":u", hash, id, "'user'", "1", "'{pwd}'", "0", "false", "''", "''", "'chrome/linux/desktop'",
			"'"+userAgent+"'", "null", "''", "86400", "0") + "\\endpipeline\n" +
		"\\startpipeline\n" + filled(list[4], "7205", ":s") +
		filled(list[5], ":s", "'session'", id, "'session.created'",
			`'{"session_id": "01900000-0000-7000-8000-000000000000", "user_id": "01900000-0000-7000-8000-000000000001"}'`,
			"md5(:u::text)::uuid", "null", "''", "-1") + filled(list[6]) + "\\endpipeline\n", nil
}

func measureCreate(ctx context.Context, s *stack) ([]row, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	script, err := s.createScript(ctx)
	if err != nil {
		return nil, err
	}
	in, err := s.instance(ctx, nil)
	if err != nil {
		return nil, err
	}
	var next atomic.Int64
	ours, spent := s.metered(side{rate: func(ctx context.Context, d time.Duration) (float64, error) {
		return closed(ctx, benchClients, d, func(ctx context.Context, _ int) error {
			return in.db.InTx(ctx, func(tx *postgres.Tx) error {
				_, failure := in.Create(ctx, tx, s.newSession(int(next.Add(1))*7919))
				return failure
			})
		})
	}})
	floor, spentBelow := s.metered(s.pgbenchSide(script))
	rates, err := alternate(ctx, s, ours, floor)
	if err = errors.Join(err, in.stop()); err != nil {
		return nil, err
	}
	return []row{
		compared("create a session, to pgbench", rates[0], rates[1], 0.7).
			with("CPU of a session: %.0f µs here, %.0f in PostgreSQL; of the floor's: %.0f in PostgreSQL",
				middle(spent.here), middle(spent.postgres), middle(spentBelow.postgres)),
		atLeast("create a session", "/s", rates[0], 1000),
	}, nil
}

const entities = 20_000

func measureEvent(ctx context.Context, s *stack) ([]row, error) {
	append1 := func(ctx context.Context, db *postgres.DB, n uint64) error {
		var id uuid.UUID
		binary.BigEndian.PutUint64(id[8:], n)
		return db.InTx(ctx, func(tx *postgres.Tx) error {
			return event.Append(tx, event.New{
				Aggregate: event.Ref{Type: "stream", ID: id}, Name: "stream.updated",
				Data: map[string]any{"stream_id": id, "fields": []string{"name"}}, Expect: event.Any,
			})
		})
	}
	list, err := s.sent(ctx, func(db *postgres.DB) error { return append1(ctx, db, 1) })
	if err == nil && len(list) != 4 {
		err = fmt.Errorf("appending an event sent %d statements:\n%s", len(list), strings.Join(list, "\n"))
	}
	if err != nil {
		return nil, err
	}
	const id = "lpad(to_hex(:k::bigint),32,'0')::uuid"
	script := fmt.Sprintf("\\set k random(1, %d)\n\\set s :k %% 16\n\\startpipeline\n", entities) +
		filled(list[0]) + filled(list[1], "7205", ":s") +
		filled(list[2], ":s", "'stream'", id, "'stream.updated'",
			`'{"stream_id": "01900000-0000-7000-8000-000000000000", "fields": ["name"]}'`, "null", "null", "''", "-1") +
		filled(list[3]) + "\\endpipeline\n"
	var next atomic.Uint64
	rates, err := alternate(
		ctx, s,
		side{rate: func(ctx context.Context, d time.Duration) (float64, error) {
			return closed(ctx, benchClients, d, func(ctx context.Context, _ int) error {
				return append1(ctx, s.db, 1<<32+(next.Add(1)*7919)%entities)
			})
		}},
		s.pgbenchSide(script),
	)
	if err != nil {
		return nil, err
	}
	return []row{compared("append an event, to pgbench", rates[0], rates[1], 0.7)}, nil
}
