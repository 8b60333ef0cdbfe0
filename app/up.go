package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rootstream/app/config"
	"rootstream/auth"
	"rootstream/devstack"
)

// UpOptions says what to run on this machine.
type UpOptions struct {
	DataDir    string
	Listen     string
	ConfigFile string        // settings of serve beyond what the stack itself decides
	Config     config.Config // the same, read
	Stdout     io.Writer
	Stderr     io.Writer
}

// Up runs the whole stack on this machine until ctx ends.
func Up(ctx context.Context, o UpOptions) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if o.ConfigFile != "" { // the children work in another folder
		if o.ConfigFile, err = filepath.Abs(o.ConfigFile); err != nil {
			return fmt.Errorf("find the configuration: %w", err)
		}
	}
	child := func(l devstack.Layout, args ...string) devstack.Command {
		return devstack.Command{Path: self, Args: append(args, "--data", l.DataDir), Env: stackEnv(os.Environ(), l)}
	}
	cfg := devstack.Config{
		DataDir: o.DataDir, Listen: o.Listen, TLS: o.Config.HTTP.TLSCert != "", Logger: o.Config.Log.Logger(o.Stderr),
		Node: func(l devstack.Layout) devstack.Command {
			if o.ConfigFile != "" {
				return child(l, "node", "--config", o.ConfigFile)
			}
			return child(l, "node")
		},
		Serve: func(l devstack.Layout) devstack.Command {
			args := []string{"serve", "--listen", l.Listen}
			if o.ConfigFile != "" {
				args = append(args, "--config", o.ConfigFile)
			}
			return child(l, args...)
		},
	}
	err = devstack.Run(ctx, cfg, func(l devstack.Layout) { welcome(ctx, l, o) })
	if err == nil {
		_, _ = fmt.Fprintf(o.Stderr, "stopped; the data stays in %s\n", o.DataDir)
	}
	return err
}

// stackEnv is env for the stack's own processes: their servers are those of the folder, whatever env says for others.
func stackEnv(env []string, l devstack.Layout) []string {
	mine := []string{"POSTGRES_DSN", "REDIS_URL", "REDIS_SENTINEL_MASTER", "REDIS_SENTINEL_ADDRS", "REDIS_SENTINEL_PASSWORD", "REDIS_CLUSTER_ADDRS", "CONFIG", "DATA"}
	env = slices.DeleteFunc(slices.Clone(env), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		name, ours := strings.CutPrefix(name, config.EnvPrefix)
		return ours && slices.Contains(mine, strings.TrimSuffix(name, "_FILE"))
	})
	if _, err := os.Stat(l.PostgresDSNFile); err != nil {
		return env // the node is about to write it; what comes after the node finds it
	}
	return append(env, config.EnvPrefix+"POSTGRES_DSN_FILE="+l.PostgresDSNFile, config.EnvPrefix+"REDIS_URL_FILE="+l.RedisURLFile)
}

// welcome says where everything is, and how to get in the first time.
func welcome(ctx context.Context, l devstack.Layout, o UpOptions) {
	_, _ = fmt.Fprintf(o.Stdout, "rootstream is ready: %s\n", l.URL)
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(o.Stderr, format+"\n", args...) }
	link, err := setupLink(ctx, l, o)
	switch {
	case err == nil:
		_, _ = fmt.Fprintf(o.Stdout, "create the first administrator (once, within 30 minutes): %s\n", link)
	case !errors.Is(err, auth.ErrAdminExists):
		say("rootstream: no link for the first administrator: %v", err)
	}
	say("data, logs and mail: %s", l.DataDir)
	if b := ofStack(o.Config, l).Backup; b.KeyFile != "" {
		say("backups: %s, which nothing but %s opens: keep a copy of that key on another machine", b.Repo, b.KeyFile)
	}
	demo := "rootstream demo"
	if l.DataDir != config.DefaultDataDir() { // by its folder the demonstration finds what a second instance needs
		demo += " --data " + l.DataDir
	}
	say("try: %s    stop: Ctrl-C", demo)
}

func setupLink(ctx context.Context, l devstack.Layout, o UpOptions) (string, error) {
	cfg, err := config.Resolve(config.Source{File: o.ConfigFile, Env: stackEnv(os.Environ(), l)}, l.DataDir)
	if err != nil {
		return "", err
	}
	p, err := Open(ctx, cfg, Options{Stderr: io.Discard, OneShot: true})
	if err != nil {
		return "", err
	}
	defer p.Close()
	token, err := p.Auth.IssueSetupToken(ctx)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(l.URL, "/") + "/setup#token=" + token.Reveal(), nil
}
