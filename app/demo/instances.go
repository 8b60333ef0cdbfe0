package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"rootstream/app"
)

// instances shows that a change on one instance is seen on another.
func (d *demo) instances() error {
	ctx, stop := context.WithCancel(d.ctx)
	other, ended, err := d.another(ctx)
	defer func() {
		stop()
		<-ended
	}()
	if err != nil {
		return err
	}
	where := "the other instance"
	if other == d.url {
		where = "the instance"
	}
	told, err := d.watch(ctx, other)
	if err != nil {
		return err
	}
	here := d.url
	state := "/v1/state/stream/" + d.stream
	begun := time.Now()
	d.match = "*"
	changed, err := d.step("change the stream's state", "PATCH", state, object{"scene": "lobby"}, 200)
	d.match = ""
	if err != nil {
		return err
	}
	select {
	case at, ok := <-told:
		if !ok {
			return ErrFailed.WithCause(errors.New("the watch ended without telling of the change"))
		}
		took := float64(at.Sub(begun).Microseconds()) / 1000
		if err = d.report(Step{where + " tells of it, since it was asked for", "GET", "/v1/watch", 200, true, took}); err != nil {
			return err
		}
	case <-time.After(patience):
		return ErrFailed.WithCause(errors.New("nobody was told of the change"))
	}
	token, _ := changed["token"].(string)
	d.url = other
	defer func() { d.url = here }()
	answer, err := d.step("read it from "+where+", not older than the change", "GET", state+"?token="+token, nil, 200)
	if got, _ := answer["state"].(object); err == nil && got["scene"] != "lobby" {
		err = ErrFailed.WithCause(errors.New("the change is not there"))
	}
	return err
}

// another starts a second instance of the system in this process and returns
// where it is; without its configuration, that is where the first one is.
func (d *demo) another(ctx context.Context) (url string, ended <-chan struct{}, err error) {
	done := make(chan struct{})
	if d.second == nil {
		close(done)
		return d.url, done, nil
	}
	cfg := *d.second
	cfg.HTTP.Listen, cfg.HTTP.TLSCert, cfg.HTTP.TLSKey, cfg.HTTP.PublicURL, cfg.Log.Level = "127.0.0.1:0", "", "", "", "error"
	lines, out := io.Pipe()
	begun := time.Now()
	go func() {
		defer close(done)
		_ = out.CloseWithError(app.Serve(ctx, cfg, out, io.Discard))
	}()
	text, err := bufio.NewReader(lines).ReadString('\n')
	if err != nil {
		return "", done, ErrFailed.WithCause(fmt.Errorf("a second instance does not start: %w", err))
	}
	_, url, _ = strings.Cut(strings.TrimSpace(text), "rootstream is ready: ")
	was := d.url
	d.url = url
	status, _, err := d.call("GET", "/v1/users/me", nil)
	d.url = was
	if err != nil || status != http.StatusOK { // another system's configuration
		return was, done, err
	}
	return url, done, d.report(Step{"start a second instance", "GET", "/readyz", http.StatusOK, true, float64(time.Since(begun).Microseconds()) / 1000})
}

// watch says when the stream was changed, as an instance tells it.
func (d *demo) watch(ctx context.Context, url string) (<-chan time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/watch?topics=stream."+d.stream, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	resp, err := (&http.Client{Transport: d.http.Transport}).Do(req) //nolint:bodyclose // the goroutine closes it
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, ErrFailed.WithCause(fmt.Errorf("/v1/watch answered %d", resp.StatusCode))
	}
	told, listening := make(chan time.Time, 1), make(chan struct{})
	go func() {
		defer close(told)
		defer func() { _ = resp.Body.Close() }()
		began := false
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if !began && strings.HasPrefix(lines.Text(), "id: ") {
				began = true
				close(listening)
			}
			if lines.Text() == "event: stream.changed" {
				told <- time.Now()
				return
			}
		}
	}()
	select {
	case <-listening:
		return told, nil
	case <-ctx.Done():
	case <-time.After(patience):
	}
	return nil, ErrFailed.WithCause(errors.New("/v1/watch does not begin"))
}
