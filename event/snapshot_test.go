package event

import (
	"testing"

	"github.com/google/uuid"
)

func TestNothingIsWrittenOfSnapshotsThatWereTakenBefore(t *testing.T) {
	t.Parallel()
	l := &Log{due: newDues()} // without a database to ask
	r := Ref{"stream", uuid.New()}
	l.due.add(r, 100)
	<-l.due.some
	l.due.add(r, 200) // wakes again
	if entities, versions := l.due.take(); len(entities) != 1 || versions[0] != 200 {
		t.Fatalf("due are %v at %v, want the newest version alone", entities, versions)
	}
	<-l.due.some
	l.writeSome(t.Context())
}
