package event_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// interrupted has something happen before the first query that says so.
type interrupted struct {
	postgres.Querier
	before string
	do     func()
}

func (q *interrupted) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if q.do != nil && strings.Contains(sql, q.before) {
		do := q.do
		q.do = nil
		do()
	}
	return q.Querier.Query(ctx, sql, args...)
}

func TestAStateIsReadWhileRetentionRemovesWhatItIsMadeOf(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	schema := tallied()
	l := runLog(t, event.LogConfig{DB: db, Schema: schema, SnapshotEvery: 10})
	ref := history(t, l, db, 25, 10)
	store := event.NewStore(db).With(schema)
	want, err := store.State(t.Context(), ref, event.At{})
	if err != nil {
		t.Fatal(err)
	}
	execute(t, db, "create table newer as select * from event_snapshots where version = 20")
	execute(t, db, "delete from event_snapshots where version = 20")
	q := &interrupted{Querier: db, before: "version > $3", do: func() { // once the snapshot at 10 is read
		execute(t, db, "insert into event_snapshots select * from newer")
		if gone, failed := store.Prune(t.Context(), time.Now().Add(time.Hour), false); failed != nil || gone.Events != 20 {
			t.Errorf("%+v, %v", gone, failed)
		}
	}}
	got, err := event.NewStore(q).With(schema).State(t.Context(), ref, event.At{})
	if err != nil || cmp.Diff(want, got) != "" || q.do != nil {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}
