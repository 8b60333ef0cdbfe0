package api_test

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A proxy between us and a client ends a connection on which nothing comes; a client notices a dead one by that.
func TestAWatchOnWhichNothingHappensIsKeptAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, err := http.NewRequestWithContext(t.Context(), "GET", w.url+"/v1/watch?topics=note.*", nil)
	must(t, err)
	as(w.token("ada"))(r)
	resp, err := client.Do(r)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			lines <- s.Text()
		}
	}()
	began, beats := false, 0
	for late := time.After(patienceWithEvents); beats == 0; {
		select {
		case line, ok := <-lines:
			switch {
			case !ok:
				t.Fatal("the connection ended")
			case strings.HasPrefix(line, "id: "):
				began = true
			case strings.HasPrefix(line, "event: "), strings.HasPrefix(line, "data: "):
				t.Fatalf("told %q, though nothing happened", line)
			case began && strings.HasPrefix(line, ":"):
				beats++
			}
		case <-late:
			t.Fatal("nothing comes")
		}
	}
}
