package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rootstream/cache/cachetest"
)

// canaries are secrets that must be found nowhere but where they belong.
type canaries struct {
	t    *testing.T
	mu   sync.Mutex
	kept map[string]string // by what they are
}

// plant remembers a secret and returns it.
func (c *canaries) plant(what, secret string) string {
	c.t.Helper()
	if len(secret) < 8 {
		c.t.Fatalf("%s %q is too short to be looked for", what, secret)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept = map[string]string{}
	}
	c.kept[what] = secret
	return secret
}

// spellings are how a secret may be written.
func spellings(secret string) []string {
	raw := [][]byte{[]byte(secret)}
	if b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret); err == nil {
		raw = append(raw, b)
	}
	all := []string{secret, strings.ReplaceAll(secret, "-", "")}
	for _, b := range raw {
		all = append(all, string(b), hex.EncodeToString(b), base64.StdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b))
	}
	return all
}

// absent fails the test where a secret is in content. What must be there shows that it is the right place to look.
func (c *canaries) absent(where string, content []byte, present ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range present {
		if !bytes.Contains(content, []byte(text)) {
			c.t.Errorf("%s does not hold %q: it is not what was to be looked through", where, text)
		}
	}
	for what, secret := range c.kept {
		for _, spelt := range spellings(secret) {
			if at := bytes.Index(content, []byte(spelt)); at >= 0 {
				c.t.Errorf("%s holds %s: …%q…", where, what, content[max(0, at-150):min(len(content), at+len(spelt)+50)])
				break
			}
		}
	}
}

// absentFrom looks through a process: its arguments and its environment.
func (c *canaries) absentFrom(pid int, name string) {
	c.t.Helper()
	for file, present := range map[string]string{"cmdline": name, "environ": "PATH="} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			c.t.Errorf("%s: %v", name, err)
			continue
		}
		c.absent(file+" of "+name, b, present)
	}
}

// files looks through all that a pattern names.
func (c *canaries) files(pattern string, present ...string) {
	c.t.Helper()
	names, _ := filepath.Glob(pattern)
	if len(names) == 0 {
		c.t.Errorf("there is no file %s", pattern)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			c.t.Error(err)
		}
		c.absent(name, b, present...)
	}
}

// monitor writes down every command that Redis gets until stop is called.
func monitor(t *testing.T, s *cachetest.Redis) (stop func() []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r := bufio.NewReader(conn)
	for _, command := range []string{"AUTH " + s.Password(), "MONITOR"} {
		if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
			t.Fatal(err)
		}
		if line, err := r.ReadString('\n'); err != nil || line != "+OK\r\n" {
			t.Fatalf("%s: %q, %v", command, line, err)
		}
	}
	var seen bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = seen.ReadFrom(r)
	}()
	return func() []byte {
		_ = conn.Close()
		<-done
		return seen.Bytes()
	}
}

// everything is all keys of Redis with their values.
func everything(s *cachetest.Redis) []byte {
	var b bytes.Buffer
	keys, _ := s.Do("KEYS", "*").([]any)
	for _, k := range keys {
		key, _ := k.(string)
		read := map[any][]string{
			"string": {"GET", key}, "hash": {"HGETALL", key}, "list": {"LRANGE", key, "0", "-1"}, "set": {"SMEMBERS", key},
			"zset": {"ZRANGE", key, "0", "-1", "WITHSCORES"}, "stream": {"XRANGE", key, "-", "+"},
		}[s.Do("TYPE", key)]
		if read != nil { // it may have expired
			fmt.Fprintf(&b, "%s %q\n", key, s.Do(read...))
		}
	}
	return b.Bytes()
}
