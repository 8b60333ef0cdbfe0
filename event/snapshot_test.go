package event

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/postgres/postgrestest"
)

func TestNothingIsWrittenOfSnapshotsThatWereTakenBefore(t *testing.T) {
	t.Parallel()
	l := &Log{due: newDues()} // without a database to ask
	r := Ref{"stream", uuid.New()}
	l.due.add(r, 100)
	<-l.due.some
	l.due.add(r, 200) // wakes again
	if entities, versions, late := l.due.take(); len(entities) != 1 || versions[0] != 200 || late {
		t.Fatalf("due are %v at %v, late is %v, want the newest version alone", entities, versions, late)
	}
	<-l.due.some
	l.writeSome(t.Context())
}

func nth(n int) Ref {
	r := Ref{Type: "stream"}
	binary.BigEndian.PutUint64(r.ID[8:], uint64(n))
	return r
}

func TestWhoHasWaitedLongestIsTakenFirst(t *testing.T) {
	t.Parallel()
	d := newDues()
	for i := range maxShots + 1 {
		d.add(nth(i), 100)
	}
	for i := range 10 {
		d.add(nth(i), 200) // keeps its place
	}
	for i, want := range []struct{ first, n int }{{0, maxShots}, {maxShots, 1}} {
		<-d.some
		entities, versions, _ := d.take()
		if len(entities) != want.n || len(versions) != want.n || entities[0] != nth(want.first) {
			t.Fatalf("the %d. time %d are taken, the first %v; want %+v", i+1, len(entities), entities[0], want)
		}
		if got := versions[0] == 200; got != (i == 0) {
			t.Errorf("the %d. time the first version is %d", i+1, versions[0])
		}
	}
	for i := range 2 * maxWaiting {
		d.add(nth(i), 100)
	}
	if _, _, late := d.take(); !late || len(d.order) != maxWaiting-maxShots {
		t.Errorf("%d are left of too many, want %d; late is %v", len(d.order), maxWaiting-maxShots, late)
	}
}

// TestSnapshotsAreNotPutOffForLong has entities become due on a clock, and writing take a share of the time that there is: the
// longer for an entity, the more has become due. While it is not much, most of the time is left to others; else no entity
// becomes due often before it is written.
func TestSnapshotsAreNotPutOffForLong(t *testing.T) {
	t.Parallel()
	const interval, entities = time.Millisecond, 2000
	for share, most := range map[float64]int64{.1: 1, .3: maxDue + 1, .6: maxDue + 1, .9: maxDue + 2} {
		d := newDues()
		var now, worked, rested time.Duration
		became, often := 0, int64(0)
		written := map[Ref]int64{}
		for now < 5*time.Minute {
			for ; time.Duration(became)*interval <= now; became++ {
				d.add(nth(became%entities), int64(became/entities)+1)
			}
			taken, versions, late := d.take()
			if len(taken) == 0 {
				now += interval
				continue
			}
			read := int64(0)
			for i, r := range taken {
				since := versions[i] - written[r]
				written[r], read, often = versions[i], read+since, max(often, since)
			}
			took := time.Duration(share * float64(interval) * float64(read))
			worked, rested = worked+took, rested+rest(took, late)
			now += took + rest(took, late)
		}
		if often > most {
			t.Errorf("at a share of %v, an entity was due %d times until it was written, want at most %d", share, often, most)
		}
		if share < .25 && rested < 3*worked {
			t.Errorf("at a share of %v, it rested %v after working %v", share, rested, worked)
		}
	}
}

// complaints is a logger, and what it was told.
func complaints() (*slog.Logger, *bytes.Buffer) {
	var said bytes.Buffer
	return slog.New(slog.NewTextHandler(&said, nil)), &said
}

// TestInstancesTakeSnapshotsInOneOrder is for those that have the same entities due at a time: they remove the same old
// snapshots, and ten of them that did so in orders of their own wrote nothing more but deadlocks.
func TestInstancesTakeSnapshotsInOneOrder(t *testing.T) {
	t.Parallel()
	a, b := newDues(), newDues()
	for i := range int64(maxShots) {
		r := Ref{"stream", uuid.New()}
		a.add(r, 100*i)
		b.add(r, 100*i+100)
	}
	theirs, versions, _ := a.take()
	others, later, _ := b.take()
	if len(theirs) != maxShots || !slices.Equal(theirs, others) {
		t.Error("they are taken in different orders")
	}
	for i := range versions {
		if later[i] != versions[i]+100 {
			t.Fatalf("%s is due at %d and %d", theirs[i], versions[i], later[i])
		}
	}
}

func TestADatabaseThatIsDownIsNotAskedForEverySnapshotAlone(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	db.Close()
	logger, said := complaints()
	l, err := NewLog(LogConfig{DB: db, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	for range maxShots {
		l.due.add(Ref{"stream", uuid.New()}, 100)
	}
	l.writeSome(t.Context())
	if n := strings.Count(said.String(), "no snapshot was written"); n != 2 {
		t.Errorf("it was asked %d times: %s", n, said)
	}
}
