package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/backup/storage/file"
	"rootstream/secret"
)

const system = 7312345678901234567

func TestMain(m *testing.M) {
	if dir := os.Getenv(runIn); dir != "" {
		if err := runUntilKilled(dir, os.Getenv(runAs)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func fileKey(text string) repo.Key {
	return repo.Key{Secret: secret.FromString(text + strings.Repeat(".", 32)), Kind: repo.KeyFile}
}

func newStorage(t *testing.T) storage.Storage {
	t.Helper()
	return storageIn(t, t.TempDir())
}

// storageIn opens a folder that the test looks into by itself, too.
func storageIn(t *testing.T, dir string) storage.Storage {
	t.Helper()
	st, err := file.Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func config() repo.Config {
	return repo.Config{Create: true, PackSize: 64 << 10, LeaseTTL: 20 * time.Second, Logger: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, st storage.Storage) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), st, []repo.Key{fileKey("a")}, config())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pages returns n bytes, every second page of which compresses.
func pages(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := 0; i < n; i += 8192 {
		page := b[i:min(i+8192, n)]
		for j := range page {
			page[j] = byte(rng.Uint32())
			if i/8192%2 == 0 {
				page[j] &= 3
			}
		}
	}
	return b
}

// backup is a small backup and what was put into it.
type backup struct {
	manifest repo.Manifest
	files    map[string][]byte
}

func begin(t *testing.T, r *repo.Repo, info repo.RunInfo) (*repo.Session, context.Context) {
	t.Helper()
	s, ctx, err := r.Begin(t.Context(), info)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Abort(context.Background()) })
	return s, ctx
}

func writer() repo.RunInfo { return repo.RunInfo{Kind: "backup", Lease: "writer", System: system} }

// plan is what a backup is made of: new files from a seed, and those of a parent, which are needed again, not written.
type plan struct {
	id     string
	seed   uint64
	parent *backup
}

// inherit takes over every second file of the parent.
func (p plan) inherit(ctx context.Context, r *repo.Repo, b *backup) (entries []repo.File, _ error) {
	if p.parent == nil {
		return nil, nil
	}
	for f, err := range r.Files(ctx, p.parent.manifest) {
		if err != nil {
			return nil, err
		}
		if f.Kind == repo.Regular && f.ModTime%2 == 0 {
			b.files["old/"+f.Path] = p.parent.files[f.Path]
			f.Path = "old/" + f.Path
			entries = append(entries, f)
		}
	}
	return entries, nil
}

func fill(ctx context.Context, r *repo.Repo, s *repo.Session, p plan) (*backup, error) {
	b := &backup{files: map[string][]byte{}}
	entries, err := p.inherit(ctx, r, b)
	if err != nil {
		return nil, err
	}
	lane, err := s.NewLane(repo.Compression{})
	if err != nil {
		return nil, err
	}
	id, seed := p.id, p.seed
	hasher := r.NewHasher()
	for i := range 6 {
		path := fmt.Sprintf("base/%s/%02d", id, i)
		data := pages(seed+uint64(i), 1+i*20_001)
		f := repo.File{Path: path, Kind: repo.Regular, Mode: 0o600, ModTime: int64(i), Size: int64(len(data)), Hash: hasher.Sum(data)}
		for at := 0; at < len(data); at += 32 << 10 {
			part := data[at:min(at+32<<10, len(data))]
			blob, fault := lane.Add(ctx, hasher.Sum(part), part)
			if fault != nil {
				return nil, fault
			}
			n := (int(blob.Raw) + repo.PageSize - 1) / repo.PageSize
			f.Extents = append(f.Extents, repo.Extent{Page: uint32(at / repo.PageSize), Pages: uint32(n), Blob: blob})
		}
		entries = append(entries, f)
		b.files[path] = data
	}
	entries = append(entries, repo.File{Path: "pg_wal", Kind: repo.Dir, Mode: 0o700},
		repo.File{Path: "pg_tblspc/16384", Kind: repo.Symlink, Target: "/srv/space"})
	w := r.NewFileWriter(lane)
	sortFiles(entries)
	for _, f := range entries {
		if err = w.Write(ctx, f); err != nil {
			return nil, err
		}
	}
	stream, err := w.Close(ctx)
	if err = errors.Join(err, lane.Close(ctx)); err != nil {
		return nil, err
	}
	b.manifest = repo.Manifest{
		ID: id, Type: repo.Full, Cluster: repo.Cluster{SystemID: system, Major: 15, SegmentSize: 16 << 20, BlockSize: 8192},
		Started: time.Unix(1_800_000_000, 0).UTC(), Completed: time.Unix(1_800_000_100, 0).UTC(), StartLSN: 0x1000000, StopLSN: 0x2000000 + 8*repoLSN(id),
		StartTimeline: 1, StopTimeline: 1, Label: []byte("START WAL LOCATION: 0/1000000\n"), Files: stream, FileCount: w.Count(), Size: w.Size(), Packs: w.Packs(),
		Settings: map[string]string{"max_connections": "100"},
	}
	return b, nil
}

func take(t *testing.T, r *repo.Repo, id string, seed uint64, parent *backup) *backup {
	t.Helper()
	s, ctx := begin(t, r, writer())
	b, err := fill(ctx, r, s, plan{id, seed, parent})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, &b.manifest); err != nil {
		t.Fatal(err)
	}
	return b
}

// restore reads all of a backup.
func restore(ctx context.Context, r *repo.Repo, id string) (map[string][]byte, error) {
	m, err := r.Manifest(ctx, id)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	type place struct {
		path string
		at   int
	}
	places := map[repo.Blob][]place{}
	for f, err := range r.Files(ctx, m) {
		if err != nil {
			return nil, err
		}
		if f.Kind != repo.Regular {
			continue
		}
		files[f.Path] = make([]byte, f.Size)
		for _, x := range f.Extents {
			places[x.Blob] = append(places[x.Blob], place{f.Path, int(x.Page) * repo.PageSize})
		}
	}
	blobs := slices.Collect(maps.Keys(places)) // in no order
	err = r.ReadBatch(ctx, blobs, func(i int, plain []byte) error {
		for _, p := range places[blobs[i]] {
			copy(files[p.path][p.at:], plain)
		}
		return nil
	})
	return files, err
}

func requireRestores(t *testing.T, r *repo.Repo, b *backup) {
	t.Helper()
	got, err := restore(t.Context(), r, b.manifest.ID)
	if err != nil {
		t.Fatalf("restore %s: %v", b.manifest.ID, err)
	}
	if len(got) != len(b.files) {
		t.Errorf("%s has %d files, want %d", b.manifest.ID, len(got), len(b.files))
	}
	for path, want := range b.files {
		if !bytes.Equal(got[path], want) {
			t.Errorf("%s: %s differs", b.manifest.ID, path)
		}
	}
}

func TestABackupReadsBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	full := take(t, open(t, st), "a1", 1, nil)
	next := take(t, open(t, st), "b2", 2, full)
	r := open(t, st)
	requireRestores(t, r, full)
	requireRestores(t, r, next)

	m, err := r.Manifest(t.Context(), "a1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full.manifest, m); diff != "" {
		t.Error("manifest (-written +read):", diff)
	}
	entries, err := r.Catalog(t.Context())
	if err != nil || len(entries) != 2 || entries[0].ID != "a1" || entries[1].ID != "b2" || entries[0].Err != nil {
		t.Errorf("catalog: %v, %v", entries, err)
	}
}

func TestSharedDataIsNotStoredAgain(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	full := take(t, r, "a1", 1, nil)
	before := packBytes(t, st)
	s, ctx := begin(t, r, writer())
	b, err := fill(ctx, r, s, plan{"b2", 1, full})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, &b.manifest); err != nil {
		t.Fatal(err)
	}
	if grown := packBytes(t, st) - before; grown > before*12/10 || s.Stored() != grown {
		t.Errorf("the second backup stored %d bytes (it says %d) beside %d", grown, s.Stored(), before)
	}
}

func packBytes(t *testing.T, st storage.Storage) (sum int64) {
	t.Helper()
	for o, err := range st.List(t.Context(), "packs/") {
		if err != nil {
			t.Fatal(err)
		}
		sum += o.Size
	}
	return sum
}
