package cli

import (
	"github.com/spf13/cobra"

	"rootstream/app"
)

func demoCommand(env *environment) *cobra.Command {
	var url string
	c := &cobra.Command{
		Use: "demo", Short: "Walk through an account, its sessions, a second factor and a stream", Args: cobra.NoArgs,
		Long: `Walk through the whole life of an account and a stream on a running server, with times:

  rootstream demo
  rootstream demo --url http://127.0.0.1:9000

Every step makes one request and checks the answer. The account is deleted at the end.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url == "" {
				cfg, err := env.config(nil)
				if err != nil {
					return err
				}
				url = cfg.PublicURL()
			}
			return app.Demo(cmd.Context(), url, env.stdout)
		},
	}
	c.Flags().StringVar(&url, "url", "", "`URL` of the server (default: that of the data folder)")
	return c
}
