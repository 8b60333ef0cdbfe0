package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rootstream/app/config"
	"rootstream/app/demo"
	"rootstream/internal/counted"
)

func demoCommand(env *environment) *cobra.Command {
	var url string
	c := &cobra.Command{
		Use: "demo", Short: "Walk through an account, its sessions, a second factor and a stream", Args: cobra.NoArgs,
		Example: "  rootstream demo\n  rootstream demo --url http://127.0.0.1:9000",
		Long: `Walk through the whole life of an account and a stream on a running server.

Every step makes one request, checks the answer and says how long it took. Where the system's
configuration is at hand, a second instance is started for a moment, to show that it tells of
what is changed on the first. The account is deleted at the end.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := env.config(nil)
			if url == "" {
				if err != nil {
					return err
				}
				url = cfg.PublicURL()
			}
			var second *config.Config
			if err == nil && !cfg.Postgres.DSN.IsZero() {
				second = &cfg
			} else {
				env.say("the system behind %s is not known here, so no second instance is started (name it with --data or --postgres and --redis)", url)
			}
			return env.demo(cmd.Context(), url, second)
		},
	}
	c.Flags().StringVar(&url, "url", "", "`URL` of the server (default: that of the data folder)")
	return c
}

// demo prints the steps as they are done, or all of them as one array.
func (env *environment) demo(ctx context.Context, url string, second *config.Config) error {
	begun, steps := time.Now(), []demo.Step{}
	err := demo.Run(ctx, url, second, func(s demo.Step) error {
		steps = append(steps, s)
		if env.output == "json" {
			return nil
		}
		mark := "ok"
		if !s.OK {
			mark = "FAILED"
		}
		_, err := fmt.Fprintf(env.stdout, "%-6s %-58s %-38s %8.2f ms\n", mark, s.What, s.Method+" "+s.Path, s.Took)
		return err
	})
	if env.output == "json" {
		if e := env.json(steps); e != nil {
			return e
		}
	}
	if err == nil {
		env.say("done: %s in %s", counted.Of(len(steps), "step"), time.Since(begun).Round(time.Millisecond))
	}
	return err
}
