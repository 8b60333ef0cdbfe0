// Package rootstream holds the tests that guard the shape of the repository.
package rootstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "rootstream/"

// mayImport is the architecture: each room, and the rooms it may open besides
// errs, metrics and internal/*, which are open to all and open none of ours.
var mayImport = map[string]string{
	"cmd/rootstream": "cli",
	"cli":            "app app/backups app/config app/demo app/doctor",
	"app":            "api app/backups app/config auth backup cache devstack event mfa notify postgres secret session statesync statesync/merge stream user",
	"app/config":     "backup backup/schedule cache notify secret",
	"app/backups":    "app/config backup backup/archive backup/archive/ledger backup/archive/receive backup/repo backup/schedule notify postgres secret",
	"app/doctor":     "app/backups app/config backup backup/archive backup/archive/ledger backup/archive/receive backup/repo backup/schedule cache devstack pgserver postgres secret",
	"app/demo":       "app app/config mfa",
	"app/apptest":    "app app/config cache/cachetest postgres postgres/postgrestest",
	"api":            "api/strict api/watch auth backup event mfa secret session statesync stream user",
	"api/strict":     "",
	"api/watch":      "event session statesync stream",
	"auth":           "auth/guard event mfa notify postgres session user cache secret",
	"auth/guard":     "cache",
	"user":           "event postgres secret",
	"session":        "cache event postgres secret session/near",
	"mfa":            "event postgres secret",
	"stream":         "cache event postgres secret",

	"statesync":                 "cache event event/codec postgres statesync/feed statesync/merge",
	"statesync/feed":            "cache event postgres",
	"statesync/merge":           "",
	"statesync/merge/mergetest": "statesync/merge",

	"backup/archive":     "backup/archive/ledger backup/pgdata backup/repo backup/wal",
	"backup/base":        "backup/base/wire backup/pgdata backup/repo backup/wal pgserver",
	"backup/base/wire":   "backup/pgdata backup/replication backup/wal",
	"backup/pgdata":      "backup/wal",
	"backup/replication": "backup/wal",
	"backup/restore":     "backup/pgdata backup/repo backup/restore/plan backup/restore/recovery backup/wal backup/wal/record pgserver",
	"backup/schedule":    "",
	"backup/wal":         "",
	"backup/wal/record":  "backup/wal",

	"backup/archive/ledger":   "backup/repo backup/wal",
	"backup/archive/receive":  "backup/archive/ledger backup/replication backup/repo backup/wal",
	"backup/restore/plan":     "backup/archive/ledger backup/repo backup/wal backup/wal/record",
	"backup/restore/proof":    "backup/archive/ledger backup/pgdata backup/repo backup/restore backup/restore/plan backup/restore/recovery pgserver",
	"backup/restore/recovery": "backup/pgdata backup/restore/plan backup/wal pgserver",

	"backup/repo":                "backup/repo/codec backup/repo/files backup/repo/logs backup/repo/pack backup/repo/run backup/repo/seal backup/storage backup/wal",
	"backup/repo/codec":          "",
	"backup/repo/files":          "backup/pgdata backup/repo/codec backup/repo/pack backup/repo/seal",
	"backup/repo/logs":           "backup/repo/seal backup/storage backup/wal",
	"backup/repo/pack":           "backup/repo/codec backup/repo/seal backup/storage",
	"backup/repo/run":            "backup/repo/seal backup/storage",
	"backup/repo/seal":           "backup/repo/codec backup/storage secret",
	"backup/storage":             "",
	"backup/storage/file":        "backup/storage",
	"backup/storage/s3":          "backup/storage secret",
	"backup/storage/storagetest": "backup/storage",

	"backup": "backup/archive backup/archive/ledger backup/archive/receive backup/base backup/repo backup/restore backup/restore/plan backup/restore/proof backup/schedule backup/storage backup/storage/file backup/storage/s3 backup/wal notify postgres secret",

	"event":    "event/codec postgres",
	"notify":   "postgres",
	"secret":   "postgres",
	"devstack": "pgserver",
	"pgserver": "",
	"postgres": "",
	"cache":    "",
	"errs":     "",

	"auth/guard/guardtest":    "",
	"cache/cachetest":         "cache",
	"event/codec":             "",
	"notify/notifytest":       "",
	"session/near":            "",
	"statesync/feed/feedtest": "",
	"postgres/postgrestest":   "postgres",
}

// oneRoom says which rooms may use a library; a room not named here may not.
var oneRoom = map[string]string{
	"github.com/jackc/pgx":                 "postgres postgres/postgrestest statesync statesync/feed user session mfa stream event auth notify secret pgserver backup/archive/receive backup/base backup/base/wire backup/replication backup/restore/proof",
	"github.com/redis/rueidis":             "cache",
	"github.com/spf13/cobra":               "cli",
	"github.com/danielgtaylor/huma":        "api",
	"github.com/wneessen/go-mail":          "notify",
	"github.com/tink-crypto/tink-go":       "secret",
	"github.com/pressly/goose":             "postgres",
	"github.com/goccy/go-yaml":             "app/config",
	"github.com/oschwald/maxminddb-golang": "session",
	"github.com/boombuler/barcode":         "mfa",
	"github.com/minio/minio-go":            "backup/storage/s3 backup/storage/storagetest",
	"github.com/klauspost/compress":        "event/codec backup/repo/codec",
	"github.com/netresearch/go-cron":       "backup/schedule",
}

type pkg struct {
	ImportPath, Doc string
	Imports         []string
}

func TestArchitecture(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok || strings.HasPrefix(name, "examples/") || strings.HasPrefix(name, "bench") || strings.HasPrefix(name, "tests") {
			continue // the root holds only this test; programs beside the house may open any room
		}
		p.check(t, name)
	}
}

func (p pkg) check(t *testing.T, name string) {
	t.Helper()
	if p.Doc == "" {
		t.Errorf("%s has no package doc", name)
	}
	allowed, known := mayImport[name]
	if !known && !strings.HasPrefix(name, "internal/") {
		t.Errorf("%s is not in the table: say what it may import", name)
	}
	for _, imp := range p.Imports {
		dep, ours := strings.CutPrefix(imp, module)
		if ours && !openToAll(dep) && !slices.Contains(strings.Fields(allowed), dep) {
			t.Errorf("%s must not import %s", name, dep)
		}
		for library, rooms := range oneRoom {
			if strings.HasPrefix(imp, library) && !slices.Contains(strings.Fields(rooms), name) {
				t.Errorf("%s must not import %s: it lives in %s", name, library, rooms)
			}
		}
	}
}

func openToAll(room string) bool {
	return room == "errs" || room == "metrics" || strings.HasPrefix(room, "internal/")
}

// Two branches easily take the same number, which is found only when somebody migrates.
func TestMigrationsAreNumberedWithoutGapOrDouble(t *testing.T) {
	for _, folder := range []string{"postgres/migrations", "postgres/contract"} {
		files, err := filepath.Glob(folder + "/*.sql")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no migrations: %v", folder, err)
		}
		for i, f := range files { // sorted
			if want := fmt.Sprintf("%03d_", i+1); !strings.HasPrefix(filepath.Base(f), want) {
				t.Errorf("%s is where %s… belongs", f, want)
			}
		}
	}
}
