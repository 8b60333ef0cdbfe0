package cli

import (
	"github.com/spf13/cobra"

	"rootstream/app"
	"rootstream/app/config"
)

func migrateCommand(env *environment) *cobra.Command {
	c := &cobra.Command{Use: "migrate", Short: "Bring the database's schema up to date", Example: "  rootstream migrate up --rolling"}
	var rolling bool
	var zone string
	up := &cobra.Command{
		Use: "up", Short: "Apply what is missing", Args: cobra.NoArgs,
		Example: `  rootstream migrate up --rolling     # while programs of Phase 24.2 still write
  rootstream migrate up               # when the last of them is gone`,
		Long: `Apply what is missing of the schema, and list what was applied.

With --rolling the schema only expands and old writers keep working. Without it the plain
session tokens and stream keys of Phase 24.2 are overwritten by their hashes as well: the
point of no return, after which an old program finds nobody's session. A person at a
terminal is asked first. Safe to run from any number of places at once.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := env.config(map[string]string{"postgres.legacy_timezone": zone})
			if err != nil {
				return err
			}
			if !rolling {
				if err = env.confirmContract(cmd, cfg); err != nil {
					return err
				}
			}
			steps, err := app.Migrate(cmd.Context(), cfg, rolling)
			if err != nil {
				return err
			}
			if len(steps) == 0 {
				env.say("the schema is up to date")
			}
			if count(steps, func(m app.Migration) bool { return m.Kind == "contract" }) > 0 {
				env.say("no plain token or stream key is left; programs of Phase 24.2 cannot use this database any more")
			}
			return printSteps(env, steps)
		},
	}
	up.Flags().BoolVar(&rolling, "rolling", false, "only expand; programs of Phase 24.2 keep working")
	up.Flags().StringVar(&zone, "legacy-timezone", "", "`zone` of the local times in a Phase 24.2 database (default: the database's own)")
	status := &cobra.Command{
		Use: "status", Short: "List all steps, applied or not", Args: cobra.NoArgs, Example: "  rootstream migrate status -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := env.config(nil)
			if err != nil {
				return err
			}
			steps, err := app.MigrationStatus(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return printSteps(env, steps)
		},
	}
	c.AddCommand(up, status)
	return c
}

// confirmContract asks a person before the point of no return; programs know what they call.
func (env *environment) confirmContract(cmd *cobra.Command, cfg config.Config) error {
	if !env.interactive() {
		return nil
	}
	steps, err := app.MigrationStatus(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	left := count(steps, func(m app.Migration) bool { return m.Kind == "contract" && m.AppliedAt == nil })
	if left == 0 {
		return nil
	}
	return env.confirm("end what programs of Phase 24.2 can use: only a backup brings it back", "no return")
}

func printSteps(env *environment, steps []app.Migration) error {
	return list(env, steps,
		column[app.Migration]{"KIND", func(m app.Migration) any { return m.Kind }},
		column[app.Migration]{"VERSION", func(m app.Migration) any { return m.Version }},
		column[app.Migration]{"NAME", func(m app.Migration) any { return m.Name }},
		column[app.Migration]{"APPLIED", func(m app.Migration) any { return m.AppliedAt }},
	)
}
