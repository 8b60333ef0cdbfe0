package cli

import (
	"github.com/spf13/cobra"

	"rootstream/app/config"
)

func configCommand(env *environment) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Show, check and explain the configuration", Example: "  rootstream config validate --config rootstream.yaml"}
	c.AddCommand(
		&cobra.Command{
			Use: "show", Short: "Show the configuration in force, secrets redacted", Args: cobra.NoArgs, Example: "  rootstream config show --config rootstream.yaml",
			RunE: func(*cobra.Command, []string) error {
				cfg, err := env.config(nil)
				if err != nil {
					return err
				}
				if env.output == "json" {
					return env.json(cfg.Tree())
				}
				return cfg.Show(env.stdout)
			},
		},
		&cobra.Command{
			Use: "validate", Short: "Report every fault of the configuration", Args: cobra.NoArgs, Example: "  rootstream config validate --config rootstream.yaml",
			RunE: func(*cobra.Command, []string) error {
				if _, err := env.config(nil); err != nil {
					return err
				}
				env.say("the configuration is valid")
				return nil
			},
		},
		explainCommand(env),
	)
	return c
}

func explainCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "explain [SETTING]", Short: "Explain all settings, or those that begin with SETTING", Args: cobra.MaximumNArgs(1),
		Example:     "  rootstream config explain session",
		Annotations: map[string]string{"output": "markdown"},
		RunE: func(_ *cobra.Command, args []string) error {
			if env.output == "markdown" {
				return config.ExplainMarkdown(env.stdout)
			}
			keys, err := config.FindSettings(args)
			if err != nil {
				return err
			}
			return list(env, keys,
				column[config.Setting]{"SETTING", func(k config.Setting) any { return k.Path }},
				column[config.Setting]{"DEFAULT", func(k config.Setting) any { return k.Default }},
				column[config.Setting]{"ENVIRONMENT", func(k config.Setting) any { return k.Env }},
				column[config.Setting]{"MEANING", func(k config.Setting) any { return k.Doc }},
			)
		},
	}
}
