package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/storage/file"
	"rootstream/secret"
	"rootstream/tests/harness"
)

// soak reports whether the tests run at full length.
func soak(t *testing.T) bool {
	t.Helper()
	return harness.Soak(t, 0) > 0
}

// furnished is a repository that has an object of every kind.
func furnished(t *testing.T) (dir string, backups []*backup) {
	t.Helper()
	dir = t.TempDir()
	st, err := file.Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	r, ctx := open(t, st), t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = r.AddKey(ctx, repo.Key{Secret: secret.FromString("correct horse battery"), Kind: repo.KeyPassphrase})
	must(err)
	backups = append(backups, take(t, r, "a1", 1, nil))
	must(r.RotateData(ctx))
	backups = append(backups, take(t, r, "b2", 20, backups[0]), take(t, r, "c3", 30, nil))
	must(r.Pin(ctx, "a1"))
	must(r.PutProof(ctx, "a1", repo.Proof{Kind: "verify", At: time.Now(), OK: true}))
	must(r.PutWAL(ctx, system, segment, pages(3, 100<<10)))
	must(r.PutWAL(ctx, system, "00000002.history", []byte("1\t0/3000000\tx\n")))
	must(r.PutPiece(ctx, system, "000000010000000000000009", 0, pages(4, 5000)))
	begin(t, r, writer())
	remove(t, r, "c3") // stays an intent while the run goes on
	return dir, backups
}

// names are the repository's objects, as files.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(d.Name(), ".") {
			name, _ := filepath.Rel(dir, path)
			all = append(all, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// look opens and verifies the repository, and returns what is said to be wrong with it.
func look(ctx context.Context, dir string) (said []string, _ error) {
	st, err := file.Open(dir, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = st.Close() }()
	r, err := repo.Open(ctx, st, []repo.Key{fileKey("a")}, config())
	if errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrFormat) {
		return []string{err.Error()}, nil
	}
	if err != nil {
		return nil, err
	}
	for f, err := range r.Verify(ctx, repo.VerifyOptions{}) {
		if err != nil {
			return said, err
		}
		said = append(said, f.Object+" "+f.Err.Error())
	}
	return said, nil
}

func requireNamed(t *testing.T, dir, name, what string) {
	t.Helper()
	said, err := look(t.Context(), dir)
	if err != nil || !strings.Contains(strings.Join(said, "\n"), name) {
		t.Errorf("%s of %s is not found: %v, %v", what, name, said, err)
	}
}

func TestARepositoryWithEveryKindOfObjectIsSound(t *testing.T) {
	t.Parallel()
	dir, _ := furnished(t)
	if said, err := look(t.Context(), dir); err != nil || len(said) > 0 {
		t.Errorf("%v, %v", said, err)
	}
	kinds := map[string]bool{}
	for _, name := range names(t, dir) {
		top, _, _ := strings.Cut(name, "/")
		if top == "clusters" {
			top, _, _ = strings.Cut(filepath.Base(name), "-")
		}
		kinds[top] = true
	}
	for _, part := range []string{"manifest", "settled", "pinned", "proof"} {
		if !kinds[part] {
			t.Errorf("there is no %s", part)
		}
	}
	if len(kinds) != 14 {
		t.Errorf("it has %v", kinds)
	}
}

func TestEveryFlippedBitAndEveryCutIsNamed(t *testing.T) {
	t.Parallel()
	alive, _ := furnished(t)
	dir := t.TempDir() // where the run that goes on does not say that it lives, over what has just been flipped
	if err := os.CopyFS(dir, os.DirFS(alive)); err != nil {
		t.Fatal(err)
	}
	all := names(t, dir)
	rng := rand.New(rand.NewPCG(harness.Seed(t), 7))
	tries := 200
	if soak(t) {
		tries = 5000
	}
	for i := range tries {
		name := all[i%len(all)]
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad, what := bytes.Clone(good), "a cut"
		if at := rng.IntN(len(good)); rng.IntN(4) > 0 {
			bit := rng.IntN(8)
			bad[at] ^= 1 << bit
			what = fmt.Sprintf("bit %d of byte %d of %d flipped", bit, at, len(good))
		} else {
			bad = bad[:at]
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		requireNamed(t, dir, name, what)
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSwappedAndMissingObjectsAreNamed(t *testing.T) {
	t.Parallel()
	dir, backups := furnished(t)
	groups := map[string][]string{}
	for _, name := range names(t, dir) {
		f := strings.Split(name, "/")
		kind := f[0]
		if kind == "clusters" {
			kind = f[2] + f[len(f)-1][:1]
		}
		groups[kind] = append(groups[kind], name)
	}
	swapped := 0
	for _, group := range groups {
		if len(group) < 2 {
			continue
		}
		one, two := filepath.Join(dir, group[0]), filepath.Join(dir, group[1])
		exchange(t, one, two)
		requireNamed(t, dir, group[0], "a swap")
		exchange(t, one, two)
		swapped++
	}
	if swapped < 3 {
		t.Errorf("only %d kinds could be swapped: %v", swapped, groups)
	}
	for _, pack := range backups[1].manifest.Packs {
		name := "packs/" + pack.String()[12:14] + "/" + pack.String()
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, "gone")); err != nil {
			t.Fatal(err)
		}
		requireNamed(t, dir, name, "the absence")
		if err := os.Rename(filepath.Join(dir, "gone"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func exchange(t *testing.T, one, two string) {
	t.Helper()
	for _, move := range [][2]string{{one, one + ".x"}, {two, one}, {one + ".x", two}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
}

// A restore of what is damaged fails and names the object; it never returns other data.
func TestADamagedBackupNeverRestoresSilently(t *testing.T) {
	t.Parallel()
	dir, backups := furnished(t)
	st, err := file.Open(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	rng := rand.New(rand.NewPCG(harness.Seed(t), 8))
	for i := range 60 {
		b := backups[i%2]
		pack := b.manifest.Packs[rng.IntN(len(b.manifest.Packs))].String()
		path := filepath.Join(dir, "packs", pack[12:14], pack)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		if err = os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := restore(t.Context(), open(t, st), b.manifest.ID)
		if err == nil {
			for name, want := range b.files {
				if !bytes.Equal(got[name], want) {
					t.Errorf("%s restores as something else", name)
				}
			}
		} else if !errors.Is(err, repo.ErrDamaged) || !strings.Contains(err.Error(), pack) {
			t.Errorf("the error does not name the pack: %v", err)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
