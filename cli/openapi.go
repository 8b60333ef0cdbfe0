package cli

import (
	"github.com/spf13/cobra"

	"rootstream/app"
)

func openapiCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "openapi", Short: "Print the description of the API (OpenAPI 3.1)", Args: cobra.NoArgs, Example: "  rootstream openapi > openapi.json",
		RunE: func(*cobra.Command, []string) error { return app.OpenAPI(env.stdout) },
	}
}
