package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rootstream/app/backups"
	"rootstream/internal/counted"
)

func backupCommand(env *environment) *cobra.Command {
	c := &cobra.Command{
		Use: "backup", Short: "Take, list, check, restore and remove backups of PostgreSQL",
		Example: `  rootstream backup create
  rootstream backup list
  rootstream backup restore latest --to /var/lib/postgresql/15/restored --start --yes`,
		Long: `Take, list, check, restore and remove backups of a PostgreSQL cluster.

Of the stack that rootstream up runs, the commands know everything. Any other
PostgreSQL from 14 on is named with --dsn and, on its own machine, --pgdata, the
repository with --repo and --key-file (or all four in the configuration). All but
create work while the database is down. Keep a copy of the key file elsewhere:
without it nothing can be restored.`,
	}
	f := &repoFlags{}
	f.add(c.PersistentFlags())
	c.AddCommand(
		backupCreate(env, f), backupList(env, f), backupShow(env, f), backupVerify(env, f), backupWindow(env, f),
		backupRestore(env, f), backupTestRestore(env, f), backupDelete(env, f), backupPrune(env, f), backupPin(env, f), backupUnpin(env, f), backupKey(env, f), backupSchedule(env, f),
	)
	return c
}

func backupColumns() []column[backups.Backup] {
	return []column[backups.Backup]{
		{"ID", func(b backups.Backup) any { return b.ID }},
		{"TYPE", func(b backups.Backup) any { return b.Type }},
		{"COMPLETED", func(b backups.Backup) any { return b.CompletedAt }},
		{"TOOK", func(b backups.Backup) any { return took(b) }},
		{"SIZE", func(b backups.Backup) any { return bytesText(b.SizeBytes) }},
		{"STORED", func(b backups.Backup) any { return bytesText(b.StoredBytes) }},
		{"STATUS", func(b backups.Backup) any { return b.Status }},
		{"PROVEN", func(b backups.Backup) any { return proofText(b) }},
	}
}

// took is how long a backup took.
func took(b backups.Backup) time.Duration {
	return b.CompletedAt.Sub(b.StartedAt).Round(100 * time.Millisecond)
}

// proofText says what is known of a backup's being restorable.
func proofText(b backups.Backup) string {
	switch p := b.Proof; {
	case p == nil:
		return ""
	case p.OK:
		return p.Kind + " " + p.At.UTC().Format(time.RFC3339)
	default:
		return p.Kind + " FAILED " + p.At.UTC().Format(time.RFC3339)
	}
}

// bytesText says a number of bytes for people.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n)/unit, "KMGTP"
	i := 0
	for value >= unit && i < len(units)-1 {
		value, i = value/unit, i+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[i])
}

func backupList(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List all backups, newest first", Args: cobra.NoArgs,
		Example: "  rootstream backup list\n  rootstream backup list -o json --repo s3://backups/main --key-file /etc/rootstream/backup.key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				all, err := b.List(cmd.Context())
				if err != nil {
					return err
				}
				return list(env, all, backupColumns()...)
			})
		},
	}
}

func backupShow(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show [ID|latest]", Short: "Show all that is known of a backup", Args: cobra.MaximumNArgs(1),
		Example: "  rootstream backup show\n  rootstream backup show 20261128T011032Z-f-3a9c -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				d, err := b.Show(cmd.Context(), idOr(args))
				if err != nil {
					return err
				}
				return one(env, d, detailColumns()...)
			})
		},
	}
}

// idOr is the id that was given, or the newest backup's.
func idOr(args []string) string {
	if len(args) == 0 {
		return "latest"
	}
	return args[0]
}

func detailColumns() []column[backups.Details] {
	type d = backups.Details
	var all []column[d]
	for _, c := range backupColumns() {
		all = append(all, column[d]{c.title, func(b d) any { return c.cell(b.Backup) }})
	}
	return append(all,
		column[d]{"FAULT", func(b d) any { return b.Fault }},
		column[d]{"STARTED", func(b d) any { return b.StartedAt }},
		column[d]{"WAL", func(b d) any {
			return fmt.Sprintf("%v to %v on timeline %d", b.StartLSN, b.StopLSN, uint32(b.Timeline))
		}},
		column[d]{"PARENT", func(b d) any { return b.Parent }},
		column[d]{"PINNED", func(b d) any { return b.Pinned }},
		column[d]{"SYSTEM", func(b d) any { return b.System }},
		column[d]{"POSTGRESQL", func(b d) any { return b.Major }},
		column[d]{"DATABASES", func(b d) any { return strings.Join(b.Databases, ", ") }},
		column[d]{"FILES", func(b d) any { return b.Files }},
		column[d]{"CHECKSUMS", func(b d) any {
			if !b.Checksums {
				return "not checked"
			}
			return "checked, " + counted.Of(b.PageErrors, "page") + " wrong"
		}},
		column[d]{"COMPRESSION", func(b d) any { return b.Compression }},
		column[d]{"TOOL", func(b d) any { return b.Tool }},
	)
}

func backupPin(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "pin ID|latest", Short: "Keep a backup from being deleted", Args: cobra.ExactArgs(1), Example: "  rootstream backup pin latest",
		RunE: func(cmd *cobra.Command, args []string) error { return pin(cmd.Context(), env, f, args[0], true) },
	}
}

func backupUnpin(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "unpin ID|latest", Short: "Let a backup be deleted again", Args: cobra.ExactArgs(1), Example: "  rootstream backup unpin 20261128T011032Z-f-3a9c",
		RunE: func(cmd *cobra.Command, args []string) error { return pin(cmd.Context(), env, f, args[0], false) },
	}
}

func pin(ctx context.Context, env *environment, f *repoFlags, id string, pinned bool) error {
	return f.with(ctx, env, func(b *backups.Operator) error {
		if err := b.Pin(ctx, id, pinned); err != nil {
			return err
		}
		if pinned {
			env.say("%s is kept until it is unpinned", id)
		} else {
			env.say("%s is kept as long as others", id)
		}
		return nil
	})
}
