package cli

import (
	"github.com/spf13/cobra"

	"rootstream/app/backups"
)

func backupSchedule(env *environment, f *repoFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "schedule", Short: "Look at the schedule, and run it", Example: "  rootstream backup schedule list",
		Long: `Look at the schedule, and run it.

rootstream up and rootstream node run it by themselves. Elsewhere, run it as a service on
any number of hosts: what is due runs once. backup.schedule says what runs when.`,
	}
	c.AddCommand(backupScheduleList(env, f), backupScheduleRun(env, f), backupScheduleNow(env, f))
	return c
}

func backupScheduleList(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the jobs, when they run next and how they went", Args: cobra.NoArgs, Example: "  rootstream backup schedule list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				jobs, err := b.Schedule(cmd.Context())
				if err != nil {
					return err
				}
				type row = backups.ScheduledJob
				return list(env, jobs,
					column[row]{"JOB", func(j row) any { return j.Name }},
					column[row]{"NEXT", func(j row) any { return j.Next }},
					column[row]{"LAST SUCCESS", func(j row) any { return j.LastSuccess }},
					column[row]{"LAST RUN", func(j row) any { return j.LastRun }},
					column[row]{"RUNS", func(j row) any { return j.Running }},
					column[row]{"PROBLEM", func(j row) any { return j.Problem }},
					column[row]{"ERROR", func(j row) any { return j.Error }})
			})
		},
	}
}

func backupScheduleRun(env *environment, f *repoFlags) *cobra.Command {
	var once bool
	c := &cobra.Command{
		Use: "run", Short: "Run what is due, and stream the write-ahead log, until stopped", Args: cobra.NoArgs,
		Example: "  rootstream backup schedule run --config /etc/rootstream.yaml\n  rootstream backup schedule run --once",
		Long: `Run what is due, and stream the write-ahead log into the repository (backup.receive), until
stopped. With --once, run only what is due now, as a timer does.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.service(env, nil)
			if err != nil {
				return err
			}
			b, err := backups.Open(cmd.Context(), cfg, backups.Options{Create: true, Stderr: env.stderr})
			if err != nil {
				return err
			}
			defer b.Close()
			if !once {
				return b.Keep(cmd.Context())
			}
			s, err := b.Scheduler()
			if err != nil {
				return err
			}
			for {
				ran, err := s.Pass(cmd.Context())
				if err != nil || !ran {
					return err
				}
			}
		},
	}
	c.Flags().BoolVar(&once, "once", false, "run what is due now, then end")
	return c
}

func backupScheduleNow(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "now KIND", Short: "Let the process that runs the schedule run something now", Args: cobra.ExactArgs(1), Example: "  rootstream backup schedule now test-restore",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				if err := b.RunNow(cmd.Context(), args[0], "console"); err != nil {
					return err
				}
				env.say("it runs within seconds, if a process runs the schedule: rootstream backup schedule list")
				return nil
			})
		},
	}
}
