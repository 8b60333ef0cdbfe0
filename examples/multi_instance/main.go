// Command multi_instance runs two instances of the server and a client that goes from one to the other without missing anything.
//
//	go run ./examples/multi_instance --data /var/lib/rootstream
//
// The account it makes is deleted at the end.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"rootstream/app"
	"rootstream/app/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "multi_instance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("multi_instance", flag.ContinueOnError)
	data := flags.String("data", "", "data folder of rootstream up")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *data == "" {
		return errors.New("name the servers: --data FOLDER")
	}
	cfg, err := config.Resolve(config.Source{}, *data)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	a, err := serve(ctx, cfg)
	if err != nil {
		return err
	}
	defer a.stop()
	b, err := serve(ctx, cfg)
	if err != nil {
		return err
	}
	defer b.stop()
	c := &client{ctx: ctx, out: out}
	if err := c.signUp(a.url); err != nil {
		return err
	}
	return errors.Join(c.move(a, b), c.call(a.url, "DELETE", "/v1/users/me", nil, nil))
}

// server is one instance, in this process.
type server struct {
	url  string
	stop func()
}

// serve starts an instance on a free port and waits until it is ready.
func serve(ctx context.Context, cfg config.Config) (*server, error) {
	cfg.HTTP.Listen, cfg.HTTP.TLSCert, cfg.HTTP.TLSKey, cfg.Log.Level = "127.0.0.1:0", "", "", "error"
	ctx, cancel := context.WithCancel(ctx)
	lines, out := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = out.CloseWithError(app.Serve(ctx, cfg, out, io.Discard))
	}()
	s := &server{stop: func() { cancel(); <-done }}
	line, err := bufio.NewReader(lines).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("start an instance: %w", err)
	}
	_, s.url, _ = strings.Cut(strings.TrimSpace(line), "rootstream is ready: ")
	return s, nil
}

// client is somebody with an account.
type client struct {
	ctx   context.Context //nolint:containedctx // one client, one context
	out   io.Writer
	token string
	last  string // the id of the last event
}

func (c *client) say(format string, args ...any) { _, _ = fmt.Fprintf(c.out, format+"\n", args...) }

// call makes a request and reads its answer.
func (c *client) call(url, method, path string, body, answer any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(c.ctx, method, url+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("If-Match", "*")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= 300:
		return fmt.Errorf("%s %s: %s %s", method, path, resp.Status, text)
	case answer == nil:
		return nil
	}
	return json.Unmarshal(text, answer)
}

func (c *client) signUp(url string) error {
	name, password := "example-"+strings.ToLower(rand.Text()[:10]), rand.Text()
	account := map[string]string{"username": name, "email": name + "@example.org", "password": password}
	if err := c.call(url, "POST", "/v1/users", account, nil); err != nil {
		return err
	}
	var in struct{ Token string }
	err := c.call(url, "POST", "/v1/auth/login", map[string]string{"login": name, "password": password}, &in)
	c.token = in.Token
	return err
}

// move watches a stream on b, and goes on at a when b ends.
func (c *client) move(a, b *server) error {
	var stream struct{ ID string }
	if err := c.call(a.url, "POST", "/v1/streams", map[string]string{"name": "Friday night"}, &stream); err != nil {
		return err
	}
	scene := func(name string) error {
		return c.call(a.url, "PATCH", "/v1/state/stream/"+stream.ID, map[string]string{"scene": name}, nil)
	}
	events, err := c.watch(b.url, stream.ID)
	if err != nil {
		return err
	}
	if err = scene("lobby"); err != nil {
		return err
	}
	if err = c.next(events, "b"); err != nil {
		return err
	}
	b.stop()
	if err = errors.Join(scene("stage"), scene("credits")); err != nil {
		return err
	}
	c.say("b has ended; two changes were made meanwhile")
	if events, err = c.watch(a.url, stream.ID); err != nil {
		return err
	}
	return errors.Join(c.next(events, "a"), c.next(events, "a"))
}

// event is as much of an event as is shown.
type event struct {
	id   string
	Name string
	Data struct{ Patch map[string]any }
}

// next shows the next event.
func (c *client) next(events <-chan event, from string) error {
	select {
	case e, ok := <-events:
		if !ok {
			return errors.New("the connection ended")
		}
		c.last = e.id
		c.say("%s tells: %s %v", from, e.Name, e.Data.Patch["scene"])
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// watch follows a stream, from after the last event on, if there was one.
func (c *client) watch(url, stream string) (<-chan event, error) {
	req, err := http.NewRequestWithContext(c.ctx, http.MethodGet, url+"/v1/watch?topics=stream."+stream, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if c.last != "" {
		req.Header.Set("Last-Event-ID", c.last)
	}
	resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // read closes it
	if err != nil {
		return nil, err
	}
	events, begun := make(chan event, 16), make(chan struct{})
	go read(resp.Body, events, begun)
	if c.last == "" { // the first id comes at once: from here on nothing is missed
		select {
		case <-begun:
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
	return events, nil
}

// read takes a text/event-stream apart.
func read(body io.ReadCloser, events chan<- event, begun chan<- struct{}) {
	defer close(events)
	defer func() { _ = body.Close() }()
	var e event
	began := false
	for lines := bufio.NewScanner(body); lines.Scan(); {
		switch field, value, _ := strings.Cut(lines.Text(), ": "); field {
		case "data":
			if json.Unmarshal([]byte(value), &e) != nil {
				return
			}
		case "id":
			e.id = value
			if !began {
				began = true
				close(begun)
			}
		case "":
			if e.Name != "" {
				events <- e
			}
			e = event{}
		}
	}
}
