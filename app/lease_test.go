package app

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/event"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

func TestWhatIsLentIsSaidAsItWasGivenAndEndsByItself(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	log, err := event.NewLog(event.LogConfig{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	m, err := statesync.New(statesync.Config{DB: db, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err = m.Register(statesync.Type{Name: "mood", Class: statesync.Volatile}); err != nil {
		t.Fatal(err)
	}
	s := &Sync{Manager: m, lent: map[event.Ref]time.Time{}}
	ref := event.Ref{Type: "mood", ID: uuid.New()}
	const said = `{"n":9007199254740993}` // which floating point does not hold
	given, err := s.Lend(ref, json.RawMessage(said))
	if err != nil || given != 30*time.Second {
		t.Fatalf("it is lent for %v, %v", given, err)
	}
	begun := time.Now()
	s.expire(begun.Add(given - time.Second))
	d, err := m.Get(t.Context(), ref, statesync.Local())
	if err != nil {
		t.Fatal(err)
	}
	heard, err := json.Marshal(d.Data)
	if err != nil || string(heard) != said {
		t.Errorf("it is %s, %v; want %s", heard, err, said)
	}
	s.expire(begun.Add(given + time.Second))
	if _, err = m.Get(t.Context(), ref, statesync.Local()); !errors.Is(err, statesync.ErrNotFound) {
		t.Errorf("it has not ended: %v", err)
	}
}
