package devstack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rootstream/internal/proc"
)

// marker is in the environment of node and serve, so that one whose record was
// never written, because its parent was killed right then, is found as well.
// Redis writes over its environment; it is known by its name and the folder it works in.
const marker = "RS_STACK_CHILD="

type record struct {
	Name    string    `json:"name"`
	Process proc.ID   `json:"process"`
	Since   time.Time `json:"since"`
}

func (l Layout) recordFile(name string) string { return filepath.Join(l.RunDir, name+".json") }

func (l Layout) mark(name string) string { return marker + name + ":" + l.DataDir }

func (l Layout) writeRecord(name string, id proc.ID) error {
	raw, err := json.Marshal(record{name, id, time.Now().UTC()})
	if err != nil {
		return err
	}
	return replace(l.recordFile(name), string(raw)+"\n")
}

func (l Layout) dropRecord(name string) { _ = os.Remove(l.recordFile(name)) }

// recorded returns the child of that name that a Run has recorded, if it is alive.
func (l Layout) recorded(name string) (proc.ID, bool) {
	raw, err := os.ReadFile(l.recordFile(name))
	if err != nil {
		return proc.ID{}, false
	}
	var r record
	if json.Unmarshal(raw, &r) != nil || !r.Process.Alive() {
		return proc.ID{}, false
	}
	return r.Process, true
}

// leftovers returns all live children of that name, recorded or marked.
func (l Layout) leftovers(name string) []proc.ID {
	var ids []proc.ID
	seen := map[int]bool{os.Getpid(): true}
	if id, ok := l.recorded(name); ok && !seen[id.PID] {
		ids, seen[id.PID] = append(ids, id), true
	}
	for _, pid := range proc.List() {
		if seen[pid] || !l.owns(name, pid) {
			continue
		}
		if id, err := proc.Of(pid); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// owns reports whether process pid is a child of that name, of this folder.
func (l Layout) owns(name string, pid int) bool {
	if name == redisName {
		command, cwd := proc.Command(pid)
		return cwd == l.RedisDir && l.isRedis(command)
	}
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	return err == nil && hasVar(env, []byte(l.mark(name)))
}

// isRedis reports whether a process of that name, of which the system keeps 15 bytes, is a server and not, say, a shell.
func (l Layout) isRedis(name string) bool {
	own := filepath.Base(l.RedisServer)
	return name == "redis-server" || name == "valkey-server" || name == own[:min(len(own), 15)]
}

func hasVar(environ, want []byte) bool {
	for v := range bytes.SplitSeq(environ, []byte{0}) {
		if bytes.Equal(v, want) {
			return true
		}
	}
	return false
}

// clearLeftovers ends what a killed predecessor left. The lock is held, so
// nobody supervises these. A node is told to leave its postmaster running.
func clearLeftovers(ctx context.Context, logger *slog.Logger, l Layout) {
	for _, child := range []struct {
		name     string
		sig      syscall.Signal
		patience time.Duration
	}{
		{serveName, syscall.SIGTERM, 15 * time.Second},
		{redisName, syscall.SIGTERM, 15 * time.Second},
		{nodeName, leaveSignal, 5 * time.Second}, // its death does not end PostgreSQL either
	} {
		for _, id := range l.leftovers(child.name) {
			logger.InfoContext(ctx, "ending what a killed predecessor left", "child", child.name, "pid", id.PID)
			end(ctx, id, child.sig, child.patience)
		}
		l.dropRecord(child.name)
	}
}

// end stops a process politely and then for good.
func end(ctx context.Context, id proc.ID, sig syscall.Signal, patience time.Duration) {
	ctx = context.WithoutCancel(ctx)
	if err := id.Signal(sig); errors.Is(err, proc.ErrGone) || id.Gone(ctx, patience) {
		return
	}
	_ = id.Signal(syscall.SIGKILL) // gone already is fine
	id.Gone(ctx, 5*time.Second)
}

// withMark returns a copy of env that carries the mark.
func (l Layout) withMark(name string, env []string) []string {
	out := make([]string, 0, len(env)+1)
	for _, v := range env {
		if !strings.HasPrefix(v, marker) {
			out = append(out, v)
		}
	}
	return append(out, l.mark(name))
}
