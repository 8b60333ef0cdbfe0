package cli

import (
	"github.com/spf13/cobra"

	"rootstream/app"
)

func statusCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what runs and how it is", Args: cobra.NoArgs, Example: "  rootstream status -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := env.config(nil)
			if err != nil {
				return err
			}
			parts := app.Status(cmd.Context(), cfg)
			if err := list(env, parts,
				column[app.PartStatus]{"PART", func(s app.PartStatus) any { return s.Name }},
				column[app.PartStatus]{"STATE", func(s app.PartStatus) any { return s.State }},
				column[app.PartStatus]{"DETAIL", func(s app.PartStatus) any { return s.Detail }}); err != nil {
				return err
			}
			for _, s := range parts {
				if s.State == "down" {
					return checkFailed
				}
			}
			return nil
		},
	}
}

func doctorCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Find what is wrong here and say what to do about it", Args: cobra.NoArgs,
		Long: `Look at this machine, the data folder and the servers, and say what is wrong:

  rootstream doctor

Changes nothing. Exit code 8 if anything needs attention.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := app.Doctor(cmd.Context(), app.DoctorOptions{DataDir: env.dataDir, Config: func() (app.Config, error) { return env.config(nil) }})
			if err := list(env, checks,
				column[app.Finding]{"CHECK", func(f app.Finding) any { return f.Name }},
				column[app.Finding]{"OK", func(f app.Finding) any { return f.OK }},
				column[app.Finding]{"DETAIL", func(f app.Finding) any { return f.Detail }},
				column[app.Finding]{"REMEDY", func(f app.Finding) any { return f.Remedy }}); err != nil {
				return err
			}
			for _, f := range checks {
				if !f.OK {
					return checkFailed
				}
			}
			return nil
		},
	}
}
