package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rootstream/app/backups"
	"rootstream/internal/counted"
)

func backupCreate(env *environment, f *repoFlags) *cobra.Command {
	var o backups.CreateOptions
	var kind, compression string
	var rate, workers int
	var newCluster, remote bool
	c := &cobra.Command{
		Use: "create", Short: "Take a backup and print its id", Args: cobra.NoArgs,
		Example: `  rootstream backup create
  rootstream backup create --type incremental
  rootstream backup create --repo file:///backups --key-file backup.key --dsn "host=/run/postgresql user=postgres" --pgdata /var/lib/postgresql/15/main
  rootstream backup create --repo file:///backups --key-file backup.key --dsn "host=db.example.org user=backup dbname=postgres"`,
		Long: `Take a backup of the whole cluster and print its id, the only line on standard output.

full shares nothing with earlier backups, differential what the last full one stored,
incremental what the last one of any type stored; each can be restored by itself, and
any of them deleted. logical is a dump of every database.

The files are read where --pgdata (backup.pgdata) says. Without it, or with --remote, the
server sends them over the replication protocol: it may be on any machine, and its role
needs REPLICATION and a replication line in pg_hba.conf. Everything is read then, by one
process of the server; what is stored and how it is restored is the same.

The repository is made on first use. Where nothing else brings the write-ahead log
into it, what the backup needs is brought. Exit code 7: the backup was taken, but
pages of the cluster have a wrong checksum.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Type = backups.Type(kind)
			cfg, err := f.config(env, map[string]string{
				"backup.compression": compression, "backup.rate_mib": number(rate), "backup.workers": number(workers),
			})
			if err != nil {
				return err
			}
			if remote {
				cfg.Backup.PGData = ""
			}
			if cfg.Backup.PGData == "" && kind != "logical" && !cfg.Backup.Source(cfg.Postgres).IsZero() {
				env.say("the server sends its files, since no data folder is named (--pgdata)")
			}
			b, err := backups.Open(cmd.Context(), cfg, backups.Options{Create: true, NewCluster: newCluster, Stderr: env.stderr})
			if err != nil {
				return err
			}
			defer b.Close()
			return env.createBackup(cmd.Context(), b, o)
		},
	}
	flags := c.Flags()
	flags.StringVar(&kind, "type", "full", "full, differential, incremental or logical")
	complete(c, "type", "full", "differential", "incremental", "logical")
	flags.BoolVar(&o.Reuse, "reuse", false, "let a full backup not store again what the newest one has")
	flags.BoolVar(&o.Pinned, "pin", false, "keep it until it is unpinned")
	flags.BoolVar(&o.Spread, "spread", false, "let the first checkpoint take its time, as checkpoint_completion_target says")
	flags.StringVar(&o.Label, "label", "", "`text` for PostgreSQL's backup_label")
	flags.StringToStringVar(&o.Annotations, "annotate", nil, "`NAME=TEXT` kept with the backup")
	flags.StringVar(&compression, "compression", "", "zstd, s2 or none (default as backup.compression says)")
	flags.IntVar(&rate, "rate", 0, "most `MiB` a second (default as backup.rate_mib says)")
	flags.IntVar(&workers, "workers", 0, "`number` of files read at once (default as backup.workers says)")
	flags.BoolVar(&remote, "remote", false, "have the server send its files, whatever backup.pgdata says")
	flags.BoolVar(&newCluster, "new-cluster", false, "let this cluster into a repository that belongs to another, after pg_upgrade")
	return c
}

// number is a flag's number as a setting; 0 is not set.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func (env *environment) createBackup(ctx context.Context, b *backups.Operator, o backups.CreateOptions) error {
	bar := env.progress("backup")
	o.Progress = func(p backups.Progress) { bar.show(p.Bytes, p.Total, string(p.Phase)) }
	made, err := b.Create(ctx, o)
	bar.end()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(env.stdout, made.ID); err != nil {
		return err
	}
	env.say("%s of %s, %s stored, %s", made.Type, bytesText(made.SizeBytes), bytesText(made.StoredBytes), took(made))
	if made.PageErrors > 0 {
		env.say("the cluster is damaged: %s with a wrong checksum; rootstream backup show %s", counted.Of(made.PageErrors, "page"), made.ID)
		return errPartial
	}
	return nil
}

func backupVerify(env *environment, f *repoFlags) *cobra.Command {
	var quick bool
	c := &cobra.Command{
		Use: "verify [ID|latest…]", Short: "Read every object that the backups need; exit code 8 if anything is wrong", Args: cobra.ArbitraryArgs,
		Example: "  rootstream backup verify\n  rootstream backup verify latest -o json",
		Long: `Read every object that the backups need and name what is wrong: missing, cut, changed,
swapped. Without an id, everything in the repository. What is found is kept with each
backup. Whether PostgreSQL starts from it is shown by test-restore.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				bar := env.progress("verify")
				findings, err := b.Verify(cmd.Context(), backups.VerifyOptions{
					IDs: args, Quick: quick, Progress: func(done, total int64) { bar.show(done, total, "") },
				})
				bar.end()
				if err != nil {
					return err
				}
				return env.backupFindings(findings)
			})
		},
	}
	c.Flags().BoolVar(&quick, "quick", false, "only look whether all objects are there, do not read them")
	return c
}

func (env *environment) backupFindings(findings []backups.Finding) error {
	if len(findings) == 0 {
		env.say("nothing is wrong")
		if env.output == "json" {
			return env.json([]backups.Finding{})
		}
		return nil
	}
	err := list(env, findings,
		column[backups.Finding]{"OBJECT", func(f backups.Finding) any { return f.Object }},
		column[backups.Finding]{"BACKUPS", func(f backups.Finding) any { return strings.Join(f.Backups, ", ") }},
		column[backups.Finding]{"PROBLEM", func(f backups.Finding) any { return f.Problem }})
	if err != nil {
		return err
	}
	return errCheckFailed
}

func backupDelete(env *environment, f *repoFlags) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "delete ID…", Short: "Delete backups, and what only they need", Args: cobra.MinimumNArgs(1),
		Example: "  rootstream backup delete 20261128T011032Z-f-3a9c --yes",
		Long: `Delete backups, and the data and write-ahead log that only they need. Backups that
share with them stay whole. One that is pinned must be unpinned first.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !dry {
				if err := env.confirm("delete "+strings.Join(args, ", "), args[0]); err != nil {
					return err
				}
			}
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				done, err := b.Delete(cmd.Context(), args, dry)
				if err != nil {
					return err
				}
				return env.removal(done)
			})
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would be deleted")
	return c
}

func backupPrune(env *environment, f *repoFlags) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "prune", Short: "Delete the backups that are not to be kept any longer", Args: cobra.NoArgs,
		Example: "  rootstream backup prune --dry-run\n  rootstream backup prune --yes",
		Long: `Delete the backups that backup.retention does not keep, what killed runs left, and the
write-ahead log that no backup needs. Always kept: what is pinned, the newest intact
backups of the whole cluster (backup.retention.minimum), and the newest that was proven
by a test restore.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !dry {
				if err := env.confirm("delete the backups that are not to be kept (see --dry-run)", "prune"); err != nil {
					return err
				}
			}
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				done, err := b.Prune(cmd.Context(), dry)
				if err != nil {
					return err
				}
				return env.removal(done)
			})
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would be deleted, and why the others are kept")
	return c
}

// removal prints what was deleted, or would be.
func (env *environment) removal(done backups.Removal) error {
	did := "deleted"
	if done.DryRun {
		did = "would be deleted"
	}
	env.say("%s %s: %s, %s, of them %s write-ahead log", counted.Of(len(done.Backups), "backup"), did, counted.Of(done.Objects, "object"), bytesText(done.Bytes), bytesText(done.WALBytes))
	for _, w := range done.Waiting {
		env.say("data stays until the next time on account of: %s", w)
	}
	if env.output == "json" {
		return env.json(done)
	}
	if done.Verdicts == nil {
		for _, id := range done.Backups {
			if _, err := fmt.Fprintln(env.stdout, id); err != nil {
				return err
			}
		}
		return nil
	}
	return list(env, done.Verdicts,
		column[backups.Verdict]{"BACKUP", func(v backups.Verdict) any { return v.ID }},
		column[backups.Verdict]{"FATE", func(v backups.Verdict) any {
			if v.Delete {
				return did
			}
			return "kept"
		}},
		column[backups.Verdict]{"REASON", func(v backups.Verdict) any { return v.Reason }})
}
