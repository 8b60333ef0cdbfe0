package proc_test

import (
	"encoding/json"
	"syscall"
	"testing"

	"rootstream/internal/proc"
)

func TestAProcessIsProvenToBeGoneOnlyWhereItRan(t *testing.T) {
	t.Parallel()
	own := proc.OwnStamp()
	if own.PID == 0 || own.Space == "" || own.Ended() {
		t.Fatalf("we are %+v, ended: %v", own, own.Ended())
	}
	c := sleeping(t)
	child := proc.Stamp{ID: c.ID, Space: own.Space}
	earlier, elsewhere, rebooted, unknown := child, child, child, child
	earlier.Start--
	elsewhere.Space, rebooted.Boot, unknown.Space = "pid:[1]", "another boot", ""
	if child.Ended() || !earlier.Ended() {
		t.Errorf("it runs: ended %v; the earlier owner of its number: ended %v", child.Ended(), earlier.Ended())
	}
	if err := c.ID.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if !child.Ended() {
		t.Error("it was killed, and nobody says that it ended")
	}
	for _, s := range []proc.Stamp{elsewhere, rebooted, unknown, {}} {
		if s.Ended() {
			t.Errorf("%+v is said to have ended, which nobody here can know", s)
		}
	}
}

func TestAStampReadsBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	own := proc.OwnStamp()
	form, err := json.Marshal(own)
	if err != nil {
		t.Fatal(err)
	}
	var again proc.Stamp
	if err := json.Unmarshal(form, &again); err != nil || again != own {
		t.Errorf("%s is read as %+v, %v", form, again, err)
	}
}
