// Package cli turns command lines into calls of package app and results into output.
//
// One file a command: flags, one call, output. Standard output carries data
// only; progress and hints go to standard error. Exit codes are a contract,
// see [exitCode]. The package keeps no state and knows no SQL and no Redis.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"rootstream/app"
	"rootstream/errs"
)

// Main runs one command line and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	env := &environment{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(env)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	report(stderr, err)
	return exitCode(err)
}

// environment is what every command has: the streams and the global flags.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	configFile     string
	dataDir        string
	postgres       string
	redis          string
	output         string
}

func newRoot(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "rootstream",
		Short: "Accounts, sessions, streams and their history on PostgreSQL and Redis",
		Long: `Start everything on this machine, then walk through it:

  rootstream up
  rootstream demo

RootStream keeps the state of a live-streaming platform: accounts, sessions with
a second factor, streams and an event log, on PostgreSQL and Redis.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if env.output != "table" && env.output != "json" && env.output != cmd.Annotations["output"] {
				return usageError{errors.New("--output must be table or json")}
			}
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&env.configFile, "config", os.Getenv("ROOTSTREAM_CONFIG"), "configuration `file` (YAML)")
	flags.StringVar(&env.dataDir, "data", os.Getenv("ROOTSTREAM_DATA"), "data `folder` of rootstream up (default "+app.DefaultDataDir()+")")
	flags.StringVar(&env.postgres, "postgres", "", "address of the database (`DSN`)")
	flags.StringVar(&env.redis, "redis", "", "address of Redis (`URL`)")
	flags.StringVarP(&env.output, "output", "o", "table", "output `format`: table or json")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		upCommand(env), serveCommand(env), nodeCommand(env), demoCommand(env), statusCommand(env), doctorCommand(env),
		configCommand(env), migrateCommand(env), keyCommand(env),
		userCommand(env), sessionCommand(env), mfaCommand(env), streamCommand(env), eventCommand(env),
		openapiCommand(env), docsCommand(root, env), versionCommand(env),
	)
	root.InitDefaultCompletionCmd()
	requireKnownArgs(root)
	return root
}

// requireKnownArgs makes a group of commands refuse a word it does not know, and every fault of arguments a usage error.
func requireKnownArgs(c *cobra.Command) {
	if c.HasSubCommands() && c.RunE == nil && c.Run == nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("%s has no command %q: see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())}
			}
			return cmd.Help()
		}
		c.Args = cobra.ArbitraryArgs
	} else if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		requireKnownArgs(sub)
	}
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitStatus ends a command with a code of its own, after it has said why.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exitCode is the contract: 0 ok, 1 failure, 2 usage or configuration, 3 not
// found, 4 permission or wrong key, 5 conflict or precondition, 6 unavailable
// (retry), 7 partial, 8 a check failed.
func exitCode(err error) int {
	if code, ok := errors.AsType[exitStatus](err); ok {
		return int(code)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return 6
	}
	switch errs.KindOf(err) {
	case errs.Malformed, errs.Invalid:
		return 2
	case errs.NotFound:
		return 3
	case errs.Unauthenticated, errs.Forbidden:
		return 4
	case errs.Conflict, errs.Precondition, errs.Gone:
		return 5
	case errs.RateLimited, errs.Unavailable:
		return 6
	case errs.Internal:
		return 1
	}
	return 1
}

// report writes an error for people: what, every field, and what to do next.
func report(w io.Writer, err error) {
	if _, quiet := errors.AsType[exitStatus](err); quiet {
		return
	}
	if faults := errs.FieldsOf(err); len(faults) > 0 {
		for _, f := range faults {
			_, _ = fmt.Fprintf(w, "rootstream: %s %s\n", f.Field, f.Message)
		}
	} else {
		_, _ = fmt.Fprintf(w, "rootstream: %s\n", strings.TrimSpace(err.Error()))
	}
	if e := errs.Of(err); e != nil && e.Hint != "" {
		_, _ = fmt.Fprintf(w, "  %s\n", e.Hint)
	}
}

// config resolves the configuration of a command; more are its own flags by key.
func (env *environment) config(more map[string]string) (app.Config, error) {
	flags := map[string]string{}
	for k, v := range more {
		if v != "" {
			flags[k] = v
		}
	}
	if env.postgres != "" {
		flags["postgres.dsn"] = env.postgres
	}
	if env.redis != "" {
		flags["redis.url"] = env.redis
	}
	return app.Resolve(app.Source{File: env.configFile, Env: os.Environ(), Flags: flags}, env.dataDir)
}

// open builds the parts a command works with; the caller closes them.
func (env *environment) open(ctx context.Context) (*app.Parts, error) {
	cfg, err := env.config(nil)
	if err != nil {
		return nil, err
	}
	return app.Open(ctx, cfg, app.Options{Stderr: env.stderr, OneShot: true})
}

// with opens the parts, runs fn and closes them.
func (env *environment) with(ctx context.Context, fn func(p *app.Parts) error) error {
	p, err := env.open(ctx)
	if err != nil {
		return err
	}
	defer p.Close()
	return fn(p)
}
