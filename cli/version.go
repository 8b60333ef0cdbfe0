package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"rootstream/app/config"
)

func versionCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: "  rootstream version",
		RunE: func(*cobra.Command, []string) error {
			if env.output == "json" {
				return env.json(map[string]string{"version": config.Version()})
			}
			_, err := fmt.Fprintln(env.stdout, "rootstream", config.Version())
			return err
		},
	}
}
