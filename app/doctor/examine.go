package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/app/config"
	"rootstream/cache"
	"rootstream/postgres"
	"rootstream/secret"
)

const (
	examineTimeout  = 45 * time.Second
	examinePatience = 8 * time.Second // for one part that does not answer
)

// examined is what Doctor and Status learn by asking the parts. Asking changes nothing.
type examined struct {
	database struct {
		err     error // nothing below is known
		server  postgres.ServerFacts
		content postgres.ContentFacts
		steps   []postgres.Migration
		schema  error // why this program cannot use the schema
	}
	redis struct {
		configured bool
		err        error
		info       cache.Info
	}
	keys struct {
		configured bool
		err        error // of the file, or of opening the keyset
		opened     bool  // status is known
		status     secret.Status
	}
	backups heldBackups
	api     struct {
		err    error
		absent bool // nothing listens there
		status string
		parts  map[string]string
	}
}

// examine asks every part that cfg names.
func examine(ctx context.Context, cfg config.Config) *examined {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	e := &examined{}
	e.askDatabase(ctx, cfg)
	e.askRedis(ctx, cfg)
	e.askAPI(ctx, cfg.PublicURL())
	e.backups.ask(ctx, cfg, e.database.err)
	return e
}

func (e *examined) askDatabase(ctx context.Context, cfg config.Config) {
	d := &e.database
	dsn := cfg.Postgres.DSN.Reveal()
	db, err := postgres.Open(ctx, postgres.Config{
		DSN: dsn, MaxConns: 2, ConnectTimeout: examinePatience, AcquireTimeout: examinePatience,
		StatementTimeout: 2 * examinePatience, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		d.err = err
		return
	}
	defer db.Close()
	if d.server, d.err = postgres.Inspect(ctx, db); d.err == nil {
		d.content, d.err = postgres.InspectContent(ctx, db)
	}
	if d.err == nil {
		d.schema = postgres.CheckSchema(ctx, dsn)
		d.steps, d.err = postgres.MigrationStatus(ctx, dsn)
	}
	e.askKeys(ctx, cfg, db)
}

// askKeys opens the keyset, unless there is none: opening would make one.
func (e *examined) askKeys(ctx context.Context, cfg config.Config, db *postgres.DB) {
	k := &e.keys
	if k.configured = cfg.Keys.MasterKeyFile != ""; !k.configured {
		return
	}
	master, err := secret.LoadMasterKey(cfg.Keys.MasterKeyFile)
	if err != nil {
		k.err = err
		return
	}
	if e.database.err != nil || !slices.Contains(e.database.content.Keysets, config.KeysetName) {
		return
	}
	keys, err := secret.OpenWith(ctx, db, master, secret.Config{Name: config.KeysetName, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		k.status, err = keys.Status(ctx)
	}
	k.err, k.opened = err, err == nil
}

func (e *examined) askRedis(ctx context.Context, cfg config.Config) {
	r := &e.redis
	if r.configured = cfg.Redis.Configured(); !r.configured {
		return
	}
	settings, err := cfg.Redis.Client()
	if err != nil {
		r.err = err
		return
	}
	settings.Logger, settings.Registerer = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	client, err := cache.Open(ctx, settings)
	if err != nil {
		r.err = err
		return
	}
	defer client.Close()
	wait, cancel := context.WithTimeout(ctx, examinePatience)
	defer cancel()
	r.info, r.err = client.Info(wait)
	for r.err != nil && wait.Err() == nil { // the first connection may still be on its way
		select {
		case <-wait.Done():
		case <-time.After(100 * time.Millisecond):
			r.info, r.err = client.Info(wait)
		}
	}
}

func (e *examined) askAPI(ctx context.Context, url string) {
	a := &e.api
	ctx, cancel := context.WithTimeout(ctx, examinePatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(url, "/")+"/readyz", http.NoBody)
	if err != nil {
		a.err = err
		return
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // nothing secret is sent; the certificate has its own check
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		a.err, a.absent = err, errors.Is(err, syscall.ECONNREFUSED)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Status string            `json:"status"`
		Parts  map[string]string `json:"parts"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&answer)
	if err != nil || answer.Status == "" {
		a.err = fmt.Errorf("what answers there (%s) is not RootStream", resp.Status)
		return
	}
	a.status, a.parts = answer.Status, answer.Parts
}

// pending counts the steps of a kind that are not applied.
func pending(steps []postgres.Migration, kind string) int {
	n := 0
	for _, s := range steps {
		if s.Kind == kind && s.AppliedAt == nil {
			n++
		}
	}
	return n
}

// flat puts an error on one line; what it says of every address alike is said once.
func flat(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.Join(strings.Fields(line), " "); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " ")
}
