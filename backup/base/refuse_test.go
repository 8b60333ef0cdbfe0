package base_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"rootstream/backup/base"
	"rootstream/backup/repo"
	"rootstream/backup/storage/file"
	"rootstream/internal/wait"
	"rootstream/pgserver"
)

func (c *cluster) requireNothingListed() {
	c.t.Helper()
	all, err := c.repo.Catalog(c.t.Context())
	if err != nil || len(all) > 0 {
		c.t.Errorf("the catalog has %d backups, %v", len(all), err)
	}
}

func TestFolderThatIsNotTheServersIsRefused(t *testing.T) {
	t.Parallel()
	c, other := newCluster(t, nil), newCluster(t, nil)
	same := filepath.Join(shared(t), "copy") // of the same system, as a standby's or a clone's is
	if out, err := exec.Command("cp", "-a", c.server.DataDir(), same).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, dir := range map[string]string{"another system's": other.server.DataDir(), "a copy of it": same} {
		cfg := c.config(repo.Full)
		cfg.PGData = dir
		if _, err := base.Take(t.Context(), cfg, c.repo, c.archived); !errors.Is(err, base.ErrFolder) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.requireNothingListed()
}

func TestWhatCannotBeRunIsRefusedWithAllFaults(t *testing.T) {
	t.Parallel()
	_, r := newRepo(t)
	_, err := base.Take(t.Context(), base.Config{Type: "whole", Workers: -1, Rate: -1, Label: strings.Repeat("x", 2000)}, r, nil)
	for _, field := range []string{"dsn", "type", "workers", "rate", "label"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%q is not named by %v", field, err)
		}
	}
	if _, err = base.Take(t.Context(), base.Config{DSN: "host=/nowhere", PGData: "/nowhere"}, r, nil); !errors.Is(err, base.ErrServer) {
		t.Errorf("no server: %v", err)
	}
}

// pooler passes a connection on and makes up a process id, as poolers do.
func pooler(t *testing.T, socket string) (port int) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(context.Background(), "unix", socket)
			if err != nil {
				_ = client.Close()
				return
			}
			all.Go(func() {
				_, _ = bufio.NewReader(client).WriteTo(server)
				_ = server.Close()
			})
			all.Go(func() {
				front := pgproto3.NewFrontend(server, nil)
				for {
					msg, err := front.Receive()
					if err != nil {
						_ = client.Close()
						return
					}
					if key, ok := msg.(*pgproto3.BackendKeyData); ok {
						key.ProcessID ^= 0x5A5A5A
					}
					raw, err := msg.Encode(nil)
					if err == nil {
						_, err = client.Write(raw)
					}
					if err != nil {
						_ = server.Close()
						return
					}
				}
			})
		}
	})
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("no port")
	}
	return addr.Port
}

func TestPoolerIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	port := pooler(t, fmt.Sprintf("%s/.s.PGSQL.%d", c.server.SocketDir(), c.server.Port()))
	cfg := c.config(repo.Full)
	cfg.DSN = fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=postgres sslmode=disable", port, c.server.Superuser())
	if _, err := base.Take(t.Context(), cfg, c.repo, c.archived); !errors.Is(err, base.ErrPooler) {
		t.Errorf("got %v", err)
	}
}

func TestBrokenArchiveIsFoundBeforeAnythingIsCopied(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"archive_command": "false"})
	cfg := c.config(repo.Full)
	cfg.Timeout = 300 * time.Millisecond
	cfg.Progress = func(p base.Progress) {
		if p.Phase == base.Copying {
			t.Error("it began to copy")
		}
	}
	if _, err := base.Take(t.Context(), cfg, c.repo, c.archived); !errors.Is(err, base.ErrArchiving) {
		t.Errorf("got %v", err)
	}
	c.requireNothingListed()
}

// during runs do once the copy has begun; the copy is slow enough that it is not over.
func (c *cluster) during(do func()) error {
	cfg := c.config(repo.Full)
	cfg.Rate = 8 << 20
	var once sync.Once
	cfg.Progress = func(p base.Progress) {
		if p.Phase == base.Copying {
			once.Do(do)
		}
	}
	_, err := base.Take(c.t.Context(), cfg, c.repo, c.archived)
	return err
}

func TestServerThatCrashesDuringABackupLeavesNone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	err := c.during(func() {
		if err := c.server.Stop(context.WithoutCancel(t.Context()), pgserver.Immediate); err != nil {
			t.Error(err)
		}
	})
	if err == nil {
		t.Error("the backup was taken")
	}
	c.requireNothingListed()
	if err = c.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.take(repo.Full)
}

func TestBackupThatIsCancelledLeavesNoneAndTheServerForgetsIt(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := c.config(repo.Full)
	cfg.Rate = 8 << 20
	cfg.Progress = func(p base.Progress) {
		if p.Phase == base.Copying {
			cancel()
		}
	}
	if _, err := base.Take(ctx, cfg, c.repo, c.archived); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	c.requireNothingListed()
	if m := c.take(repo.Full); m.Parent != "" {
		t.Errorf("parent %q", m.Parent)
	}
}

func TestLimitsOfOrdinarySessionsDoNotEndABackup(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{
		"statement_timeout": "500ms", "idle_in_transaction_session_timeout": "500ms", "idle_session_timeout": "500ms", "lock_timeout": "500ms",
	})
	cfg := c.config(repo.Full)
	cfg.Rate = 24 << 20 // longer than any of them
	if _, err := base.Take(t.Context(), cfg, c.repo, c.archived); err != nil {
		t.Error(err)
	}
}

func TestKilledBackupIsResumed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	if err := c.pgbench(t.Context(), "-i", "-q", "-s", "3"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	st, err := file.Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	c.repo, err = repo.Open(t.Context(), st, keys(), repo.Config{Create: true, LeaseTTL: childTTL, PackSize: 1 << 20, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	run, err := json.Marshal(childRun{Repo: dir, DSN: c.server.DSN("postgres"), PGData: c.server.DataDir(), Archive: c.archive})
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+string(run))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = child.Start(); err != nil {
		t.Fatal(err)
	}
	var stored int64
	for lines := bufio.NewScanner(out); lines.Scan() && stored < 2<<20; {
		var phase string
		if _, err = fmt.Sscan(lines.Text(), &phase, &stored); err != nil || phase != string(base.Starting) && phase != string(base.Copying) {
			t.Fatalf("%q, %v", lines.Text(), err)
		}
	}
	if err = child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	c.requireNothingListed()

	var m repo.Manifest
	for {
		m, err = base.Take(t.Context(), c.config(repo.Full), c.repo, c.archived)
		if !errors.Is(err, repo.ErrLeaseHeld) {
			break
		}
		if err = wait.For(t.Context(), 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	_, fresh := newRepo(t)
	whole, err := base.Take(t.Context(), c.config(repo.Full), fresh, c.archived)
	if err != nil {
		t.Fatal(err)
	}
	if m.Stored > whole.Stored-stored/2 {
		t.Errorf("stored %d after a run that had stored %d; from nothing it takes %d", m.Stored, stored, whole.Stored)
	}
	requireSound(t, c.recover(m))
}
