package cli

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rootstream/app/backups"
)

// restoreFlags are the flags of a restore.
type restoreFlags struct {
	backups.RestoreOptions

	delta, inPlace, rollback, confirmed bool
	sets                                []string
}

func backupRestore(env *environment, f *repoFlags) *cobra.Command {
	var o restoreFlags
	c := &cobra.Command{
		Use: "restore [ID|latest]", Short: "Restore the cluster, as it is or as it was at a point in time", Args: cobra.MaximumNArgs(1),
		Example: `  rootstream backup restore latest --to /var/lib/postgresql/15/restored --start --yes
  rootstream backup restore --to /srv/pg --target-time 2026-11-28T20:14:00Z --yes
  rootstream backup restore --to /srv/pg --start --set port=5433 --yes   # beside a server that runs
  rootstream backup restore --to /srv/pg --in-place --yes
  rootstream backup restore --to /srv/pg --rollback --yes`,
		Long: `Restore the cluster into a data folder, as it is (all the write-ahead log there is) or
as it was at a target. Without an id, or with latest, the backup is chosen that brings it
there soonest; a target outside of what can be restored is refused, with exit code 5,
and what can be is said.

The folder must be empty, unless --delta reuses what is the same in it, or --in-place
keeps it aside; --rollback then puts it back, --confirm removes it. A restore that was
killed goes on where it was when it is run again. With --start, the server is started,
and the command waits until it is at its target; where another server has its address,
or its folder for sockets is not yours, --set gives it another. Without --start, the user that starts the
server must be able to run this program and to read the repository and its key.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.read(args); err != nil {
				return err
			}
			if o.rollback || o.confirmed {
				return env.settle(o.To, o.rollback)
			}
			return env.restore(cmd, f, o.RestoreOptions)
		},
	}
	o.add(c.Flags())
	return c
}

func (o *restoreFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.To, "to", "", "data `folder` to make")
	flags.StringVar(&o.Spec.Time, "target-time", "", "restore what was committed up to this `time`, with its zone")
	flags.StringVar(&o.Spec.LSN, "target-lsn", "", "… up to this position of the write-ahead log (`LSN`)")
	flags.StringVar(&o.Spec.XID, "target-xid", "", "… up to the end of this transaction (`number`)")
	flags.StringVar(&o.Spec.Name, "target-name", "", "… up to this restore point (pg_create_restore_point)")
	flags.BoolVar(&o.Spec.Immediate, "immediate", false, "… only until the backup is consistent")
	flags.BoolVar(&o.Spec.Exclusive, "exclusive", false, "end before the target, not after it")
	flags.StringVar(&o.Spec.Timeline, "target-timeline", "", "`timeline` to follow: a number, latest or current")
	flags.StringVar(&o.Spec.Action, "target-action", "promote", "what the server does at its target: promote, pause or shutdown")
	flags.BoolVar(&o.delta, "delta", false, "reuse what is the same in the folder, overwrite or remove all else")
	flags.BoolVar(&o.inPlace, "in-place", false, "keep what is in the folder aside")
	flags.BoolVar(&o.rollback, "rollback", false, "undo a restore in place: put back what was kept aside")
	flags.BoolVar(&o.confirmed, "confirm", false, "end a restore in place: remove what was kept aside")
	flags.StringToStringVar(&o.Tablespaces, "tablespace-map", nil, "`OLD=NEW` folder of a tablespace; repeat for each")
	flags.StringVar(&o.Owner, "owner", "", "`user` that the files belong to (default the owner of the folder above)")
	flags.StringArrayVar(&o.sets, "set", nil, "`NAME=VALUE` setting of PostgreSQL for the restored cluster, such as port=5433; repeat for each")
	flags.Uint64Var(&o.System, "system-id", 0, "`number` of the cluster, where the repository holds several")
	flags.BoolVar(&o.Start, "start", false, "start the server and wait for the target")
	flags.IntVar(&o.Workers, "workers", 0, "`number` of pieces fetched at once (default 4)")
}

// read finds out what the flags say together.
func (o *restoreFlags) read(args []string) (err error) {
	switch {
	case o.To == "":
		return usage("--to is required: the data folder to make")
	case count([]bool{o.delta, o.inPlace, o.rollback, o.confirmed}, func(given bool) bool { return given }) > 1:
		return usage("--delta, --in-place, --rollback and --confirm exclude each other")
	case o.delta:
		o.Mode = backups.Delta
	case o.inPlace:
		o.Mode = backups.InPlace
	}
	o.Spec.Backup = idOr(args)
	if o.Settings, err = settingsOf(o.sets); err != nil {
		return err
	}
	if o.To, err = filepath.Abs(o.To); err != nil {
		return usageError{err}
	}
	return nil
}

// settingsOf reads settings of PostgreSQL. A value may hold commas and further equals signs.
func settingsOf(sets []string) (map[string]string, error) {
	settings := make(map[string]string, len(sets))
	for _, s := range sets {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, usage("--set must be NAME=VALUE, such as --set port=5433, not %q", s)
		}
		settings[name] = value
	}
	return settings, nil
}

func (env *environment) restore(cmd *cobra.Command, f *repoFlags, o backups.RestoreOptions) error {
	what := "restore into " + o.To
	switch o.Mode {
	case backups.Fresh:
	case backups.Delta:
		what = "overwrite what is in " + o.To
	case backups.InPlace:
		what = "move what is in " + o.To + " aside and restore there"
	}
	if err := env.confirm(what, o.To); err != nil {
		return err
	}
	return f.with(cmd.Context(), env, func(b *backups.Operator) error {
		bar := env.progress("restore")
		o.Progress = func(p backups.RestoreProgress) { bar.show(p.Done, p.Total, p.Phase) }
		r, err := b.Recovery(f.settings()).Restore(cmd.Context(), o)
		bar.end()
		if err != nil {
			return err
		}
		return env.restored(r)
	})
}

func (env *environment) restored(r backups.Restored) error {
	if r.Kept != "" {
		env.say("what was there is kept in %s; put it back with --rollback, remove it with --confirm", r.Kept)
	}
	if r.Started {
		env.say("the server runs and is at its target; it took %s", r.Recovery.Round(time.Millisecond))
	} else {
		env.say("start it as user %s, who must be able to read the repository and its key: it recovers to its target (%s) by itself", r.Owner, r.Target)
		env.say("or let this program start it, which hands the log to it: run the same with --delta --start")
	}
	type row = backups.Restored
	return one(env, r,
		column[row]{"BACKUP", func(r row) any { return r.Backup }},
		column[row]{"FOLDER", func(r row) any { return r.Dir }},
		column[row]{"TARGET", func(r row) any { return r.Target }},
		column[row]{"TIMELINE", func(r row) any { return uint32(r.Timeline) }},
		column[row]{"FILES", func(r row) any { return r.Files }},
		column[row]{"SIZE", func(r row) any { return bytesText(r.Bytes) }},
		column[row]{"FETCHED", func(r row) any { return bytesText(r.Fetched) }},
		column[row]{"TOOK", func(r row) any { return r.Took.Round(10 * time.Millisecond) }})
}

// settle ends a restore in place.
func (env *environment) settle(dir string, back bool) error {
	what, done, settle := "remove what was kept aside of "+dir, "what was kept aside is gone", backups.Confirm
	if back {
		what, done, settle = "remove what was restored to "+dir+" and put back what was there", "what was there is back", backups.Rollback
	}
	if err := env.confirm(what, dir); err != nil {
		return err
	}
	if err := settle(dir); err != nil {
		return err
	}
	env.say("%s", done)
	return nil
}

func backupTestRestore(env *environment, f *repoFlags) *cobra.Command {
	var o backups.TestRestoreOptions
	c := &cobra.Command{
		Use: "test-restore [ID|latest]", Short: "Prove that a backup can be restored; exit code 8 if not", Args: cobra.MaximumNArgs(1),
		Example: "  rootstream backup test-restore\n  rootstream backup test-restore 20261128T011032Z-f-3a9c -o json",
		Long: `Restore a backup into a temporary folder, start an isolated server on it, and look at all
of its data: indexes and tables with amcheck, page checksums. Without an id, the newest
backup and all the write-ahead log there is, up to a restore point that is set now in
the living server, if that answers. The result is kept with the backup.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.ID = args[0]
			}
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				bar := env.progress("test-restore")
				o.Progress = func(p backups.RestoreProgress) { bar.show(p.Done, p.Total, p.Phase) }
				proof, err := b.Recovery(f.settings()).TestRestore(cmd.Context(), o)
				bar.end()
				if err != nil {
					return err
				}
				return env.proof(proof)
			})
		},
	}
	c.Flags().StringVar(&o.Dir, "dir", "", "`folder` for the temporary cluster (default the system's)")
	c.Flags().BoolVar(&o.Planted, "plant", false, "set a restore point in the living server, and restore up to it")
	return c
}

func (env *environment) proof(p backups.Proof) error {
	type row = backups.Proof
	err := one(env, p,
		column[row]{"RESULT", func(p row) any {
			if p.OK {
				return "restorable"
			}
			return "NOT restorable"
		}},
		column[row]{"AT", func(p row) any { return p.At }},
		column[row]{"TOOK", func(p row) any { return fmt.Sprintf("%.1f s", p.Seconds) }},
		column[row]{"DETAIL", func(p row) any { return strings.TrimSpace(p.Detail) }})
	if err == nil && !p.OK {
		return errCheckFailed
	}
	return err
}

func backupWindow(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "window", Short: "Show to what times the cluster can be restored", Args: cobra.NoArgs, Example: "  rootstream backup window -o json",
		Long: `Show to what times the cluster can be restored: from the end of a backup to where the
write-ahead log ends, or has a gap.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				windows, err := b.Windows(cmd.Context())
				if err != nil {
					return err
				}
				type row = backups.Window
				return list(env, windows,
					column[row]{"FROM", func(w row) any { return w.Since }},
					column[row]{"TO", func(w row) any { return w.Until }},
					column[row]{"FROM LSN", func(w row) any { return w.From }},
					column[row]{"TO LSN", func(w row) any { return w.To }},
					column[row]{"TIMELINE", func(w row) any { return uint32(w.Timeline) }})
			})
		},
	}
}
