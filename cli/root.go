// Package cli turns command lines into calls of package app and results into output.
//
// One file a command: flags, one call, output. Standard output carries data
// only; progress and hints go to standard error. Exit codes are a contract,
// see [exitCode]. The package keeps no state and knows no SQL and no Redis.
package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"rootstream/app"
	"rootstream/app/config"
	"rootstream/errs"
)

// Main runs one command line and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	env := &environment{args: args, stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(env)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil {
		err = hintedError{err, ""} // somebody ended it: there is nothing to mend
	}
	report(stderr, err)
	return exitCode(err)
}

// environment is what every command has: the streams and the global flags.
type environment struct {
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	configFile     string
	dataDir        string
	postgres       string
	redis          string
	output         string
	yes            bool
}

func newRoot(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "rootstream",
		Short: "Accounts, sessions, streams and their history on PostgreSQL and Redis",
		Example: `  rootstream up       # start everything on this machine
  rootstream demo     # walk through it`,
		Long: `RootStream keeps the state of a live-streaming platform: accounts, sessions with
a second factor, streams and an event log, on PostgreSQL and Redis.

Standard output carries data only; hints go to standard error. Exit codes: 0 ok ·
1 failure · 2 usage or configuration · 3 not found · 4 permission or wrong key ·
5 conflict or precondition · 6 unavailable, retry · 7 partial · 8 a check failed.`,
		Version:           config.Version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if env.output != "table" && env.output != "json" && env.output != cmd.Annotations["output"] {
				return usage("--output must be table or json")
			}
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&env.configFile, "config", os.Getenv("ROOTSTREAM_CONFIG"), "configuration `file` (YAML); also ROOTSTREAM_CONFIG")
	flags.StringVar(&env.dataDir, "data", os.Getenv("ROOTSTREAM_DATA"), "data `folder` of rootstream up; also ROOTSTREAM_DATA (default "+cmp.Or(config.DefaultDataDir(), "none")+")")
	flags.StringVar(&env.postgres, "postgres", "", "address of the database (`DSN`), instead of a data folder")
	flags.StringVar(&env.redis, "redis", "", "address of Redis (`URL`)")
	flags.StringVarP(&env.output, "output", "o", "table", "output `format`: table or json")
	flags.BoolVar(&env.yes, "yes", false, "do not ask before something that cannot be undone")
	flags.Lookup("config").DefValue, flags.Lookup("data").DefValue = "", "" // what the environment says is no default
	complete(root, "output", "table", "json")
	root.SetFlagErrorFunc(usageOf)
	root.AddCommand(
		upCommand(env), serveCommand(env), nodeCommand(env), demoCommand(env), statusCommand(env), doctorCommand(env),
		configCommand(env), migrateCommand(env), keyCommand(env),
		userCommand(env), sessionCommand(env), mfaCommand(env), streamCommand(env), eventCommand(env), syncCommand(env), backupCommand(env), walCommand(env),
		openapiCommand(env), docsCommand(root, env), versionCommand(env),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	explainDefaults(root)
	root.SetVersionTemplate("rootstream {{.Version}}\n")
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(usageTemplate)
	requireKnownArgs(root)
	return root
}

// requireKnownArgs makes a group of commands refuse a word it does not know, and every fault of arguments a usage error.
func requireKnownArgs(c *cobra.Command) {
	if c.HasSubCommands() && c.RunE == nil && c.Run == nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		}
		c.Args = cobra.ArbitraryArgs
	} else if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if check(cmd, args) != nil {
				return usageOf(cmd, fmt.Errorf("it is typed: %s", cmd.UseLine()))
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		requireKnownArgs(sub)
	}
}

// source is what a command line says about the configuration; more are its own flags by key.
func (env *environment) source(more map[string]string) config.Source {
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
	return config.Source{File: env.configFile, Env: os.Environ(), Flags: flags}
}

// config resolves the configuration of a command; more are its own flags by key.
func (env *environment) config(more map[string]string) (config.Config, error) {
	return config.Resolve(env.source(more), env.dataDir)
}

// with opens the parts a command works with, runs fn and closes them.
func (env *environment) with(ctx context.Context, fn func(p *app.Parts) error) error {
	t, err := config.Find(env.source(nil), env.dataDir)
	if err != nil {
		return err
	}
	p, err := app.Open(ctx, t.Config, app.Options{Stderr: env.stderr, OneShot: true})
	if err == nil {
		defer p.Close()
		err = fn(p)
	}
	if t.DataDir != "" && errs.KindOf(err) == errs.Unavailable && hintOf(err) == "" {
		return hintedError{err, "is the stack running? start it with: rootstream up --data " + t.DataDir}
	}
	return err
}
