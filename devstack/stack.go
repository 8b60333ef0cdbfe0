package devstack

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"rootstream/internal/proc"
	"rootstream/internal/wait"
)

const (
	pollEvery   = 25 * time.Millisecond
	backoffMin  = 200 * time.Millisecond
	backoffMax  = 10 * time.Second
	steadyAfter = 30 * time.Second // a child that lived so long starts over with the shortest backoff
)

// stack is the three children of one Run.
type stack struct {
	cfg    Config
	layout Layout
	failed chan error // the first failure before readiness
	ready  chan struct{}
}

// child is one supervised process.
type child struct {
	name     string
	command  Command
	account  proc.Account
	patience time.Duration // after SIGTERM, before SIGKILL
	stop     func()
	done     chan struct{}

	mu sync.Mutex
	id proc.ID // of the process that runs now
}

func newStack(cfg Config, l Layout) *stack {
	return &stack{cfg: cfg, layout: l, failed: make(chan error, 1), ready: make(chan struct{})}
}

func (s *stack) run(ctx context.Context, ready func(Layout)) error {
	logs, stopLogs := context.WithCancel(context.WithoutCancel(ctx))
	rotating := make(chan struct{})
	go func() {
		defer close(rotating)
		rotateLogs(logs, s.cfg.Logger, s.cfg.LogCap,
			s.layout.logFile(nodeName), s.layout.logFile(redisName), s.layout.logFile(serveName))
	}()
	defer func() { stopLogs(); <-rotating }()

	self, err := proc.Current()
	if err != nil {
		return err
	}
	redisUser, err := redisAccount()
	if err != nil {
		return err
	}
	var children []*child
	defer func() {
		for _, c := range slices.Backward(children) { // serve, redis, node
			c.stop()
			<-c.done
		}
	}()
	node := s.start(ctx, &child{name: nodeName, command: s.cfg.Node(s.layout), account: self, patience: 90 * time.Second})
	children = append(children, node)
	redis := s.start(ctx, &child{name: redisName, command: s.layout.redisCommand(), account: redisUser, patience: 20 * time.Second})
	children = append(children, redis)
	deadline, cancel := context.WithTimeoutCause(ctx, s.cfg.ReadyTimeout, ErrNotReady)
	defer cancel()
	if err = s.await(deadline, "PostgreSQL", func(ctx context.Context) error { return s.nodeReady(ctx, node) }); err != nil {
		return s.unless(ctx, err)
	}
	if err = s.await(deadline, "Redis", s.layout.pingRedis); err != nil {
		return s.unless(ctx, err)
	}
	if err = s.layout.writeClientFile(); err != nil {
		return err
	}
	children = append(children, s.start(ctx, &child{name: serveName, command: s.cfg.Serve(s.layout), account: self, patience: 20 * time.Second}))
	if err = s.await(deadline, s.layout.URL+"/readyz", s.serveReady); err != nil {
		return s.unless(ctx, err)
	}
	close(s.ready)
	if ready != nil {
		ready(s.layout)
	}
	<-ctx.Done()
	return nil
}

// unless returns err, or nil when a wanted stop is what ended the start.
func (s *stack) unless(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // a wanted stop
	}
	return err
}

// await asks until the answer is yes, a child fails, or ctx ends.
func (s *stack) await(ctx context.Context, what string, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case failed := <-s.failed:
			return failed
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), ErrNotReady) {
				return ErrNotReady.WithCause(fmt.Errorf("%s: %w", what, err)).WithHint("see the logs in " + s.layout.LogDir)
			}
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

func (s *stack) nodeReady(_ context.Context, node *child) error {
	raw, err := os.ReadFile(s.layout.NodeStatus)
	if err != nil {
		return err
	}
	var st NodeStatus
	if err := json.Unmarshal(raw, &st); err != nil {
		return err
	}
	if st.Node != node.process() || st.State != StateReady {
		return fmt.Errorf("it is %s", st.State)
	}
	return nil
}

func (s *stack) serveReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.layout.URL+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // our own child, whose certificate names another host
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}

// start supervises c until its stop is called; c.done tells when the process is gone.
func (s *stack) start(ctx context.Context, c *child) *child {
	own, stop := context.WithCancel(context.WithoutCancel(ctx)) // stopped in order, not all at once
	c.stop, c.done = stop, make(chan struct{})
	go func() {
		defer close(c.done)
		s.supervise(own, c)
	}()
	return c
}

func (s *stack) supervise(ctx context.Context, c *child) {
	backoff := backoffMin
	for ctx.Err() == nil {
		began := time.Now()
		err := s.runOnce(ctx, c)
		if ctx.Err() != nil {
			return
		}
		select {
		case <-s.ready:
		default: // a start that fails is reported, not repeated
			select {
			case s.failed <- err:
			default:
			}
			<-ctx.Done()
			return
		}
		if time.Since(began) > steadyAfter {
			backoff = backoffMin
		}
		s.cfg.Logger.ErrorContext(ctx, "a child ended, restarting it", "child", c.name, "err", err, "in", backoff)
		if wait.For(ctx, backoff) != nil {
			return
		}
		backoff = min(2*backoff, backoffMax)
	}
}

// runOnce runs the child's process to its end; on a wanted stop it ends it.
func (s *stack) runOnce(ctx context.Context, c *child) error {
	path := s.layout.logFile(c.name)
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) //nolint:gosec // below the data folder
	if err != nil {
		return ErrAccess.WithCause(err)
	}
	defer func() { _ = out.Close() }()
	var from int64
	if info, unknown := out.Stat(); unknown == nil {
		from = info.Size()
	}
	cmd := exec.Command(c.command.Path, c.command.Args...) //nolint:gosec,noctx // ended by signal, in order
	cmd.Env = s.layout.withMark(c.name, c.command.Env)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	// A session of its own: a terminal's Ctrl-C reaches us alone, and we stop the children in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: c.account.Credential()}
	p, err := proc.Start(cmd, 0)
	if err != nil {
		return ErrChildFailed.WithCause(fmt.Errorf("%s: %w", c.name, err))
	}
	c.setProcess(p.ID)
	defer s.layout.dropRecord(c.name)
	if err = s.layout.writeRecord(c.name, p.ID); err != nil {
		s.cfg.Logger.WarnContext(ctx, "a child could not be recorded", "child", c.name, "err", err)
	}
	select {
	case <-p.Done():
		return ErrChildFailed.WithCause(fmt.Errorf("%s ended (%w): %s", c.name, ended(p.Err()), tail(path, from))).
			WithHint("see " + path)
	case <-ctx.Done():
	}
	if !s.endChild(ctx, c, p) {
		return ErrChildFailed.WithCause(fmt.Errorf("%s does not end", c.name))
	}
	return nil
}

func (s *stack) endChild(ctx context.Context, c *child, p *proc.Child) bool {
	_ = p.ID.Signal(syscall.SIGTERM) // gone already is fine
	select {
	case <-p.Done():
		return true
	case <-time.After(c.patience):
	}
	s.cfg.Logger.WarnContext(ctx, "a child does not stop, killing it", "child", c.name, "pid", p.ID.PID)
	_ = p.ID.Signal(syscall.SIGKILL)
	select {
	case <-p.Done():
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}

func ended(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (c *child) process() proc.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

func (c *child) setProcess(id proc.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id = id
}

// removeTemporary removes half-written files of a killed predecessor.
func removeTemporary(dirs ...string) {
	for _, dir := range dirs {
		left, _ := filepath.Glob(filepath.Join(dir, ".*[.-][0-9]*"))
		for _, path := range left {
			_ = os.Remove(path)
		}
	}
}
