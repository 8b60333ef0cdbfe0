package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"rootstream/app"
	"rootstream/event"
)

func TestVerificationTellsWhatItFoundAndExitsWithEight(t *testing.T) {
	t.Parallel()
	found := app.EventFindings{
		Gaps:       []event.Gap{{Place: "shard 3", After: 7, Next: 9}},
		Mismatches: []event.Mismatch{{Entity: "stream:x", Version: 100, Reason: "it is not what the events make"}},
	}
	for output, want := range map[string][]string{
		"table": {"PLACE", "shard 3   7      9", "numbers are missing", "stream:x", "the snapshot is wrong: it is not what the events make"},
		"json":  {`"place": "shard 3"`, `"after": 7`, `"next": 9`, `"problem": "numbers are missing"`, `"after": 100`},
	} {
		var stdout, stderr bytes.Buffer
		env := &environment{stdout: &stdout, stderr: &stderr, output: output}
		if err := env.disorders(found); !errors.Is(err, exitError(8)) {
			t.Errorf("%s: %v, want exit code 8", output, err)
		}
		for _, text := range want {
			if !strings.Contains(stdout.String(), text) {
				t.Errorf("%s: no %q in\n%s", output, text, stdout.String())
			}
		}
	}
}
