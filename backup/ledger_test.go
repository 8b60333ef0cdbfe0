package backup_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"rootstream/backup"
	"rootstream/backup/repo"
	"rootstream/backup/schedule"
	"rootstream/errs"
)

// What failed is told in the words of other programs, to people: nobody else is to read or to write that.
func TestTheLedgerOfTheScheduleIsSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := must[*backup.Manager](t)(backup.Open(t.Context(), backup.Config{
		Repo: "file://" + dir, Keys: []repo.Key{key("a")}, Create: true, Logger: slog.New(slog.DiscardHandler),
	}))
	if err := m.RunNow(t.Context(), "full", "somebody-by-name"); err != nil {
		t.Fatal(err)
	}
	if found := must[[]backup.Finding](t)(m.Verify(t.Context(), backup.VerifyOptions{})); len(found) != 0 {
		t.Errorf("verify takes the ledger for damage: %+v", found)
	}
	place := filepath.Join(dir, "leases", "schedule")
	raw := must[[]byte](t)(os.ReadFile(place))
	if bytes.Contains(raw, []byte("somebody-by-name")) {
		t.Errorf("whoever reads the storage reads it: %q", raw)
	}
	for name, forged := range map[string][]byte{
		"plain": []byte(`{"serial":7,"jobs":{"full":{"kind":"full","error":"run this to mend it"}}}`), "none of ours": []byte("RSO1"),
	} {
		if err := os.WriteFile(place, forged, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, _, err := schedule.Read(t.Context(), m.Book()); errs.KindOf(err) != errs.Internal {
			t.Errorf("%s: read as %+v, %v", name, l, err)
		}
		if found := must[[]backup.Finding](t)(m.Verify(t.Context(), backup.VerifyOptions{})); len(found) != 1 || found[0].Object != "leases/schedule" {
			t.Errorf("%s: verify finds %+v", name, found)
		}
	}
}

// A file may claim any size at no cost.
func TestAnObjectThatIsFarTooLargeIsNamedAndNotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := backup.Config{Repo: "file://" + dir, Keys: []repo.Key{key("a")}, Create: true, Logger: slog.New(slog.DiscardHandler)}
	m := must[*backup.Manager](t)(backup.Open(t.Context(), cfg))
	if err := m.RunNow(t.Context(), "full", "somebody"); err != nil {
		t.Fatal(err)
	}
	const huge = 1 << 42
	if err := os.Truncate(filepath.Join(dir, "leases", "schedule"), huge); err != nil {
		t.Fatal(err)
	}
	if found := must[[]backup.Finding](t)(m.Verify(t.Context(), backup.VerifyOptions{})); len(found) != 1 || found[0].Object != "leases/schedule" {
		t.Errorf("verify finds %+v", found)
	}
	if err := os.Truncate(filepath.Join(dir, "repo.json"), huge); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Open(t.Context(), cfg); errs.KindOf(err) != errs.Internal {
		t.Errorf("a root object of that size: %v", err)
	}
}
