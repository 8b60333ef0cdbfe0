package repo

import (
	"encoding/json"
	"testing"
)

func FuzzManifests(f *testing.F) {
	f.Add([]byte(`{"id":"a","type":"full","cluster":{"system_id":"7"},"packs":["00"]}`))
	f.Fuzz(func(_ *testing.T, body []byte) {
		var m Manifest
		if json.Unmarshal(body, &m) == nil {
			_ = m.check()
		}
	})
}
