package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"

	"rootstream/app/backups"
	"rootstream/app/config"
)

func walCommand(env *environment) *cobra.Command {
	c := &cobra.Command{
		Use: "wal", Short: "Bring write-ahead log into the repository of backups, and back",
		Example: "  rootstream wal status",
		Long: `Bring write-ahead log into the repository of backups, and back out of it.

What a backup needs to be restored to any moment is the write-ahead log from then
on. rootstream node receives it as it is written; for any other PostgreSQL that is
wal receive, or wal push as its archive_command, or both.`,
	}
	f := &repoFlags{}
	f.add(c.PersistentFlags())
	c.AddCommand(walStatus(env, f), walGaps(env, f), walReceive(env, f), walPush(env, f), walFetch(env, f))
	return c
}

func walStatus(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "How far the repository is behind the server", Args: cobra.NoArgs,
		Example: "  rootstream wal status\n  rootstream wal status -o json --repo file:///srv/backups --key-file /etc/rootstream/backup.key",
		Long: `Show for each cluster in the repository from where to where it has write-ahead log
without a gap, and, if the server answers, how much it is behind and what the server
keeps in the replication slot.

Exit code 8 if log is missing, or the server has given up the slot.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(env, nil)
			if err != nil {
				return err
			}
			all, unknown, err := backups.WALStatuses(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if unknown != nil {
				env.say("the server is not asked: %v", unknown)
			}
			if err := list(env, all, walColumns()...); err != nil {
				return err
			}
			for _, s := range all {
				if !s.Sound() {
					return errCheckFailed
				}
			}
			return nil
		},
	}
}

func walColumns() []column[backups.WALStatus] {
	type s = backups.WALStatus
	ofServer := func(fn func(s) any) func(s) any {
		return func(x s) any {
			if x.Server == nil {
				return nil
			}
			return fn(x)
		}
	}
	return []column[s]{
		{"SYSTEM", func(x s) any { return x.SystemID }},
		{"TIMELINE", func(x s) any { return uint32(x.Timeline) }},
		{"FROM", func(x s) any { return x.From }},
		{"ARCHIVED", func(x s) any { return x.Archived }},
		{"AT", func(x s) any { return x.Newest }},
		{"GAPS", func(x s) any { return x.Gaps }},
		{"BEHIND", ofServer(func(x s) any { return bytesText(x.Behind) })},
		{"SLOT", ofServer(func(x s) any {
			switch slot := x.Server.Slot; {
			case slot.Name == "":
				return "none"
			case slot.Active:
				return "active, " + slot.Status
			default:
				return "not in use, " + slot.Status
			}
		})},
		{"RETAINED", ofServer(func(x s) any { return bytesText(x.Server.Slot.Retained) })},
	}
}

func walGaps(env *environment, f *repoFlags) *cobra.Command {
	var system string
	c := &cobra.Command{
		Use: "gaps", Short: "What there is of the write-ahead log, and what is missing", Args: cobra.NoArgs, Example: "  rootstream wal gaps",
		Long: `Show what the repository has of the write-ahead log, timeline by timeline: FOUND are
whole segments, PARTIAL is the beginning of one that is still written or never ended,
MISSING is what lies in between. CONFLICT is a segment of which there are two contents:
two servers wrote it, each of which took itself for the primary. backup verify names
the objects and says what to do.

Exit code 8 if anything is missing or in conflict.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, cfg, err := f.walConfig(env, system)
			if err != nil {
				return err
			}
			entries, err := backups.WALEntries(cmd.Context(), cfg, id)
			if err != nil {
				return err
			}
			if err := list(env, entries,
				column[backups.WALEntry]{"TIMELINE", func(e backups.WALEntry) any { return uint32(e.Timeline) }},
				column[backups.WALEntry]{"FROM", func(e backups.WALEntry) any { return e.From }},
				column[backups.WALEntry]{"TO", func(e backups.WALEntry) any { return e.To }},
				column[backups.WALEntry]{"SIZE", func(e backups.WALEntry) any { return bytesText(int64(e.To - e.From)) }}, //nolint:gosec // far below 2^63
				column[backups.WALEntry]{"STATUS", func(e backups.WALEntry) any { return e.Status }},
			); err != nil {
				return err
			}
			if backups.WALMissing(entries) {
				return errCheckFailed
			}
			return nil
		},
	}
	systemFlag(c, &system)
	return c
}

func systemFlag(c *cobra.Command, system *string) {
	c.Flags().StringVar(system, "system-id", "", "system identifier of the cluster, a `number`; not given: that of the data folder")
}

// walConfig resolves what the commands for single files need.
func (f *repoFlags) walConfig(env *environment, system string) (uint64, config.Config, error) {
	id, err := backups.ParseSystemID(system)
	if err != nil {
		return 0, config.Config{}, err
	}
	cfg, err := f.config(env, nil)
	return id, cfg, err
}

func walReceive(env *environment, f *repoFlags) *cobra.Command {
	var slot, spool, acknowledge string
	c := &cobra.Command{
		Use: "receive", Short: "Stream write-ahead log from a server into the repository", Args: cobra.NoArgs,
		Example: "  rootstream wal receive --repo file:///srv/backups --key-file /etc/rootstream/backup.key --dsn postgres://backup@db1 --spool /var/spool/wal",
		Long: `Stream write-ahead log from a server into the repository until told to stop.

The server keeps in a replication slot, which is made, what has not arrived. Once it
is on disk in the spool folder it counts as received; what there is of the segment
being written is in the repository within a second. Name the slot in the server's
synchronous_standby_names, and no commit that was acknowledged can be lost.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.service(env, map[string]string{"backup.slot": slot, "backup.spool": spool, "backup.acknowledge": acknowledge})
			if err != nil {
				return err
			}
			r, err := backups.NewWALReceiver(cfg, backups.Options{Stderr: env.stderr}, nil)
			if err != nil {
				return err
			}
			return r.Run(cmd.Context())
		},
	}
	c.Flags().StringVar(&slot, "slot", "", "`name` of the replication slot, and of the receiver as a standby (default rootstream_wal)")
	c.Flags().StringVar(&spool, "spool", "", "`folder` for what is on its way")
	c.Flags().StringVar(&acknowledge, "acknowledge", "", "`when` the server hears that log is safe: spool or repository (default spool)")
	return c
}

func walPush(env *environment, f *repoFlags) *cobra.Command {
	var system string
	c := &cobra.Command{
		Use: "push FILE", Short: "Bring one file into the repository: an archive_command", Args: cobra.ExactArgs(1),
		Example: "  rootstream wal push pg_wal/000000010000000000000003 --repo file:///srv/backups --key-file /etc/rootstream/backup.key",
		Long: `Bring one file of the write-ahead log into the repository.

Exit code 0 only if the repository has the file, durable and to the byte; pushing it
once more is fine. Another content under the same name is refused.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, cfg, err := f.walConfig(env, system)
			if err != nil {
				return err
			}
			return backups.PushWAL(cmd.Context(), cfg, id, args[0])
		},
	}
	systemFlag(c, &system)
	return c
}

func walFetch(env *environment, f *repoFlags) *cobra.Command {
	var system, dir string
	var ahead int
	var only bool
	c := &cobra.Command{
		Use: "fetch NAME DEST", Short: "Bring one file out of the repository: for a restore_command", Args: cobra.ExactArgs(2),
		Example: "  rootstream wal fetch 000000010000000000000003 pg_wal/RECOVERYXLOG --repo file:///srv/backups --key-file /etc/rootstream/backup.key",
		Long: `Bring one file of the write-ahead log out of the repository.

Exit code 0: delivered. 42: proven absent. Anything else: nobody knows. PostgreSQL
takes 1 to 125 for the end of the log, and promotes: so let 42 be 1 for it, and
everything else 255; backup restore writes it like that:

  restore_command = 'rootstream wal fetch … "%f" "%p"; case $? in 0) exit 0;; 42) exit 1;; *) exit 255;; esac'

Of the last segment there may be pieces only: they are filled up with zeros. Segments
that follow are fetched ahead in the background.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, cfg, err := f.walConfig(env, system)
			if err != nil {
				return err
			}
			want := backups.WALFetch{System: id, Name: args[0], Dest: args[1], Dir: dir}
			if only {
				return backups.FetchWALAhead(cmd.Context(), cfg, want, ahead)
			}
			err = backups.FetchWAL(cmd.Context(), cfg, want)
			if errors.Is(err, backups.ErrWALAbsent) {
				report(env.stderr, err)
				return exitError(backups.WALExitAbsent)
			}
			if err == nil && ahead > 0 {
				env.fetchAhead(cmd.Context(), dir, ahead)
			}
			return err
		},
	}
	systemFlag(c, &system)
	c.Flags().StringVar(&dir, "ahead-dir", "", "`folder` for segments that are fetched ahead; outside of pg_wal, and nobody else's")
	c.Flags().IntVar(&ahead, "ahead", 8, "how `many` segments to fetch ahead; 0: none. For pg_rewind it is none")
	c.Flags().BoolVar(&only, "only-ahead", false, "fetch what follows NAME, and nothing else")
	_ = c.Flags().MarkHidden("only-ahead") // there is such a flag
	return c
}

// fetchAhead lets a process of its own fetch what comes next, while PostgreSQL replays what it has. Without it a
// recovery is slower, and no more: so nothing that goes wrong with it is an error.
func (env *environment) fetchAhead(ctx context.Context, dir string, count int) {
	if dir != "" && !backups.WALAheadLow(dir, count) || backups.RewindRunsUs() {
		return
	}
	self, err := os.Executable()
	if err != nil {
		return
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, append(env.args, "--only-ahead")...) //nolint:gosec // ourselves, as we were called
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if cmd.Start() == nil {
		_ = cmd.Process.Release()
	}
}
