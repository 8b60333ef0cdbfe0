package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rootstream/app"
)

func demoCommand(env *environment) *cobra.Command {
	var url string
	c := &cobra.Command{
		Use: "demo", Short: "Walk through an account, its sessions, a second factor and a stream", Args: cobra.NoArgs,
		Example: "  rootstream demo\n  rootstream demo --url http://127.0.0.1:9000",
		Long: `Walk through the whole life of an account and a stream on a running server.

Every step makes one request, checks the answer and says how long it took. The account
is deleted at the end.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url == "" {
				cfg, err := env.config(nil)
				if err != nil {
					return err
				}
				url = cfg.PublicURL()
			}
			return env.demo(cmd.Context(), url)
		},
	}
	c.Flags().StringVar(&url, "url", "", "`URL` of the server (default: that of the data folder)")
	return c
}

// demo prints the steps as they are done, or all of them as one array.
func (env *environment) demo(ctx context.Context, url string) error {
	begun, steps := time.Now(), []app.DemoStep{}
	err := app.Demo(ctx, url, func(s app.DemoStep) error {
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
		env.say("done: %d steps in %s", len(steps), time.Since(begun).Round(time.Millisecond))
	}
	return err
}
