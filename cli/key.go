package cli

import (
	"context"

	"github.com/spf13/cobra"

	"rootstream/app"
)

func keyCommand(env *environment) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Look at and rotate the keys that seal secrets", Example: "  rootstream key status"}
	c.AddCommand(
		&cobra.Command{
			Use: "status", Short: "Show the keys and prove that the master key opens them", Args: cobra.NoArgs, Example: "  rootstream key status -o json",
			RunE: func(cmd *cobra.Command, _ []string) error {
				return env.with(cmd.Context(), func(p *app.Parts) error {
					return env.keys(cmd.Context(), p)
				})
			},
		},
		&cobra.Command{
			Use: "rotate", Short: "Add a key, let every instance learn it, then seal with it", Args: cobra.NoArgs, Example: "  rootstream key rotate",
			Long: `Add a key, wait (30 seconds) until every instance has learnt it, then make it the one that seals.

What older keys sealed stays readable; second factors are sealed again in the background.`,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return env.with(cmd.Context(), func(p *app.Parts) error {
					env.say("waiting until every instance has learnt the new key")
					if err := p.Keys.Rotate(cmd.Context()); err != nil {
						return err
					}
					return env.keys(cmd.Context(), p)
				})
			},
		},
	)
	return c
}

// keys prints the keys there are.
func (env *environment) keys(ctx context.Context, p *app.Parts) error {
	s, err := p.Keys.Status(ctx)
	if err != nil {
		return err
	}
	if env.output == "json" {
		return env.json(s)
	}
	return list(env, s.Keys,
		column[app.SealingKey]{"KEY", func(k app.SealingKey) any { return k.ID }},
		column[app.SealingKey]{"STATE", func(k app.SealingKey) any { return k.State }},
		column[app.SealingKey]{"ADDED", func(k app.SealingKey) any { return k.AddedAt }})
}
