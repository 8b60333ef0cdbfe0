package repo

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A manifest that counts is written back as it was read.
func FuzzManifests(f *testing.F) {
	for _, m := range []Manifest{
		{ID: "20261128T011032Z-F-0a1b", Type: Full, Cluster: Cluster{SystemID: 7}, Completed: time.Unix(1_800_000_000, 0).UTC(), StartLSN: 1 << 33, StopLSN: 1<<33 + 9},
		{
			ID: "a", Parent: "b", Type: Incremental, Cluster: Cluster{SystemID: 7}, Label: []byte("START"), FileCount: 1,
			Files: []Blob{{Pack: PackID{1}, Number: 3, Offset: 9, Stored: 40, Raw: 90, Codec: 1}}, Packs: []PackID{{1}, {2}},
			Settings: map[string]string{"max_connections": "100"}, Databases: []Database{{5, "postgres"}},
		},
	} {
		body, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var m, again Manifest
		if json.Unmarshal(body, &m) != nil || m.check() != nil {
			return
		}
		form, err := json.Marshal(m)
		if err != nil {
			return // a time that JSON has not
		}
		if err = json.Unmarshal(form, &again); err != nil || again.check() != nil {
			t.Fatalf("%s: %v, %v", form, err, again.check())
		}
		second, err := json.Marshal(again)
		if diff := cmp.Diff(string(form), string(second)); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		if name, ok := parseBackupName(m.object()); !ok || name.system != m.Cluster.SystemID || name.id != m.ID {
			t.Errorf("%s is read as %+v", m.object(), name)
		}
	})
}
