package secret_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rootstream/errs"
	"rootstream/secret"
)

func writeKey(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the umask may have taken bits away
		t.Fatal(err)
	}
	return path
}

func TestMasterKeyFileIsCheckedBeforeUse(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 32)
	for _, tt := range []struct {
		name    string
		content string
		mode    os.FileMode
		want    error
		hint    string
	}{
		{"32 bytes", long, 0o600, nil, ""},
		{"white space around them", "\n\t " + long + " \r\n", 0o400, nil, ""},
		{"31 bytes", long[1:], 0o600, secret.ErrMasterKeyShort, "head -c 32"},
		{"white space does not count", long[1:] + "\n\n\n", 0o600, secret.ErrMasterKeyShort, "head -c 32"},
		{"empty", "", 0o600, secret.ErrMasterKeyShort, "head -c 32"},
		{"readable by the group", long, 0o640, secret.ErrMasterKeyOpen, "chmod 600 "},
		{"readable by all", long, 0o604, secret.ErrMasterKeyOpen, "chmod 600 "},
		{"writable by the group", long, 0o620, secret.ErrMasterKeyOpen, "chmod 600 "},
		{"some other file", strings.Repeat("k", 5000), 0o600, secret.ErrMasterKeyFile, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := writeKey(t, tt.content, tt.mode)
			m, err := secret.LoadMasterKey(path)
			if !errors.Is(err, tt.want) {
				t.Fatalf("LoadMasterKey = %v, want %v", err, tt.want)
			}
			if err == nil && m.IsZero() {
				t.Error("the key is empty")
			}
			if tt.hint != "" && !strings.Contains(errs.Of(err).Hint, tt.hint) {
				t.Errorf("hint %q does not say %q", errs.Of(err).Hint, tt.hint)
			}
			if err != nil && strings.Contains(err.Error(), "kkkk") {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestMissingMasterKeyFileSaysHowToMakeOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "absent.key")
	_, err := secret.LoadMasterKey(path)
	if !errors.Is(err, secret.ErrMasterKeyMissing) || !strings.Contains(errs.Of(err).Hint, path) {
		t.Errorf("LoadMasterKey = %v, hint %q", err, errs.Of(err).Hint)
	}
	if _, err := secret.LoadMasterKey(t.TempDir()); !errors.Is(err, secret.ErrMasterKeyFile) {
		t.Errorf("a folder gives %v", err)
	}
}

func TestNewMasterKeyFileIsPrivateAndNeverReplaces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "master.key")
	m, err := secret.NewMasterKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
	again, err := secret.LoadMasterKey(path)
	if err != nil || again.ID() != m.ID() {
		t.Fatalf("read back as %s, %v; want %s", again.ID(), err, m.ID())
	}
	if _, err = secret.NewMasterKeyFile(path); !errors.Is(err, secret.ErrMasterKeyExists) {
		t.Errorf("a second one gives %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if out := fmt.Sprintf(verb, m); strings.Contains(out, strings.TrimSpace(string(raw))) {
			t.Errorf("%s shows the master key: %s", verb, out)
		}
	}
	if _, err := secret.NewMasterKeyFile(filepath.Join(dir, "absent", "master.key")); !errors.Is(err, secret.ErrMasterKeyFile) {
		t.Errorf("a missing folder gives %v", err)
	}
}
