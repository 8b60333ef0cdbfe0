package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// This binary is also what PostgreSQL fetches its log with.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "fetch" {
		main()
	}
	m.Run()
}

func TestTheExampleGetsTheTableBack(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	want := []string{
		"full backup, completed", "incremental backup, completed", "incremental backup, completed",
		"the table is dropped, and a backup was taken since",
		"restored to the moment before: 1501 letters, 1501 of them as they were written", "",
	}
	if diff := cmp.Diff(want, strings.Split(out.String(), "\n")); diff != "" {
		t.Errorf("it tells another story: %s", diff)
	}
}
