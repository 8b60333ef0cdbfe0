package rootstream

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Every pitfall in a document names tests that exist, or says why it cannot
// occur; so does everything else that is named there.
func TestDocumentsOfPitfallsAreTrue(t *testing.T) {
	t.Parallel()
	tests := testNames(t)
	for path, pitfalls := range map[string]int{"docs/SECURITY.md": 40, "docs/BACKUP_RECOVERY.md": 36} {
		doc, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rows := map[int]string{}
		for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| (.+) \|$`).FindAllStringSubmatch(string(doc), -1) {
			n, _ := strconv.Atoi(row[1])
			rows[n] = row[2]
		}
		named := regexp.MustCompile("`(Test[A-Za-z0-9_]+|Fuzz[A-Za-z0-9_]+)`")
		for n := 1; n <= pitfalls; n++ {
			if row := rows[n]; !named.MatchString(row) && !strings.Contains(row, "cannot occur: ") {
				t.Errorf("%s, pitfall %d: neither a test nor why it cannot occur", path, n)
			}
		}
		if len(rows) != pitfalls {
			t.Errorf("%s: %d pitfalls, want %d", path, len(rows), pitfalls)
		}
		for _, m := range named.FindAllStringSubmatch(string(doc), -1) {
			if !tests[m[1]] {
				t.Errorf("%s: there is no test %s", path, m[1])
			}
		}
	}
}

// testNames are those of all tests and fuzz targets of the module.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
