package ledger_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"rootstream/tests/harness"
)

// node is an instance, over all its lives, behind lines of its own to PostgreSQL and, if it can be, Redis.
type node struct {
	harness.Lines
	control
	name string
	env  []string
	run  *harness.Program
	url  atomic.Pointer[string]
	says says
}

// errLost is an answer that never came: nobody knows what was done.
var errLost = errors.New("no answer")

// call asks an instance something. A failure is its answer, errLost is none.
func (n *node) call(ctx context.Context, what string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout+time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, *n.url.Load()+"/"+what, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if res.StatusCode == http.StatusOK {
		return dec.Decode(out)
	}
	f := &failure{}
	if err := dec.Decode(f); err != nil {
		return fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return f
}

// watch tells hear every line of a watch until it ends, ctx ends or hear says false.
func (n *node) watch(ctx context.Context, q url.Values, hear func(told) bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, *n.url.Load()+"/watch?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewReader(res.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		var t told
		if err := json.Unmarshal(line, &t); err != nil {
			return fmt.Errorf("%w: %s", err, line)
		}
		if !hear(t) {
			return nil
		}
	}
}
