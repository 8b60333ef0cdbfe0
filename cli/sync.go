package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rootstream/app"
	"rootstream/internal/counted"
)

func syncCommand(env *environment) *cobra.Command {
	c := &cobra.Command{
		Use: "sync", Short: "Read, change and watch the state that all instances share",
		Example: "  rootstream sync status\n  rootstream sync watch 'stream.*'",
	}
	c.AddCommand(syncStatus(env), syncGet(env), syncUpdate(env), syncWatch(env), syncConflicts(env), syncSnapshot(env), syncRestore(env))
	return c
}

const exampleEntity = "stream:0198c0de-0000-7000-8000-000000000000"

func syncStatus(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Which instances there are, and how far behind they are", Args: cobra.NoArgs, Example: "  rootstream sync status",
		Long: `Listen for a moment as one more instance, and tell which others there are.

Exit code 8 if PostgreSQL or Redis does not answer, or an instance has seen another history than we have.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				s, err := p.SyncStatus(cmd.Context())
				if err != nil {
					return err
				}
				if err := env.syncStatus(s); err != nil {
					return err
				}
				sound := s.Postgres && s.Redis != "suspect"
				for _, peer := range s.Peers {
					sound = sound && len(peer.Diverged) == 0
				}
				if !sound {
					return errCheckFailed
				}
				return nil
			})
		},
	}
}

func (env *environment) syncStatus(s app.SyncStatus) error {
	if env.output == "json" {
		return env.json(s)
	}
	if err := one(env, s,
		column[app.SyncStatus]{"EPOCH", func(s app.SyncStatus) any { return s.Epoch }},
		column[app.SyncStatus]{"POSTGRESQL", func(s app.SyncStatus) any { return word(s.Postgres) }},
		column[app.SyncStatus]{"REDIS", func(s app.SyncStatus) any { return s.Redis }},
		column[app.SyncStatus]{"EVENTS", func(s app.SyncStatus) any { return sum(s.Heads) }},
		column[app.SyncStatus]{"BEHIND", func(s app.SyncStatus) any { return s.Behind }},
		column[app.SyncStatus]{"OTHERS", func(s app.SyncStatus) any { return len(s.Peers) }},
	); err != nil {
		return err
	}
	for _, peer := range s.Peers {
		state := "same history"
		if len(peer.Diverged) > 0 {
			state = fmt.Sprintf("another history in shards %v", peer.Diverged)
		}
		_, _ = fmt.Fprintf(env.stdout, "  %s  %s  %s behind  %s\n", peer.Node, text(peer.Address), counted.Of(max(0, sum(s.Applied)-sum(peer.Applied)), "event"), state)
	}
	return nil
}

func word(ok bool) string {
	if ok {
		return "ok"
	}
	return "does not answer"
}

func sum(v [16]int64) (n int64) {
	for _, x := range v {
		n += x
	}
	return n
}

func docColumns() []column[app.SyncDoc] {
	return []column[app.SyncDoc]{
		{"ENTITY", func(d app.SyncDoc) any { return d.Type + ":" + d.ID.String() }},
		{"VERSION", func(d app.SyncDoc) any { return d.Version }},
		{"AT", func(d app.SyncDoc) any { return d.At }},
		{"STATE", func(d app.SyncDoc) any { return compact(d.State) }},
	}
}

func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "-"
	}
	return string(b)
}

func syncGet(env *environment) *cobra.Command {
	var version int64
	var at string
	c := &cobra.Command{
		Use: "get TYPE:ID", Short: "Show an entity's state, now or then", Args: cobra.ExactArgs(1),
		Example: "  rootstream sync get " + exampleEntity + "\n  rootstream sync get " + exampleEntity + " --version 7",
		RunE: func(cmd *cobra.Command, args []string) error {
			var when time.Time
			if at != "" {
				var err error
				if when, err = time.Parse(time.RFC3339, at); err != nil {
					return usage("--at must be a time such as 2026-01-02T15:04:05Z")
				}
			}
			if cmd.Flags().Changed("version") && (version < 1 || at != "") {
				return usage("--version must be at least 1, and does not go together with --at")
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				d, err := p.SyncGet(cmd.Context(), args[0], version, when)
				if err != nil {
					return err
				}
				return one(env, d, docColumns()...)
			})
		},
	}
	c.Flags().Int64Var(&version, "version", 0, "as of this `version`")
	c.Flags().StringVar(&at, "at", "", "as of this `time` (RFC 3339)")
	return c
}

func syncUpdate(env *environment) *cobra.Command {
	var expect int64
	c := &cobra.Command{
		Use: "update TYPE:ID PATCH", Short: "Change an entity's state by a JSON merge patch", Args: cobra.ExactArgs(2),
		Example: "  rootstream sync update " + exampleEntity + ` '{"scene":"lobby","old":null}' --expect 7`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if expect < -1 {
				return usage("--expect must be a version, 0 or -1")
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				d, err := p.SyncUpdate(cmd.Context(), args[0], args[1], expect)
				if err != nil {
					return err
				}
				return one(env, d, docColumns()...)
			})
		},
	}
	c.Flags().Int64Var(&expect, "expect", -1, "`version` it must have now; -1 means any, 0 that it is new")
	return c
}

func syncWatch(env *environment) *cobra.Command {
	var token string
	var most int
	c := &cobra.Command{
		Use: "watch TOPIC...", Short: "Print changes as they happen, one JSON object a line, until Ctrl-C", Args: cobra.MinimumNArgs(1),
		Example: "  rootstream sync watch 'stream.*'\n  rootstream sync watch '*.*' --count 10",
		Long: `Print changes as they happen, one JSON object a line, until Ctrl-C.

A topic is TYPE.ID, TYPE.*, *.ID or *.*; each line carries the token to go on after it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if most < 0 {
				return usage("--count must not be negative")
			}
			lines := json.NewEncoder(env.stdout)
			lines.SetEscapeHTML(false)
			return env.with(cmd.Context(), func(p *app.Parts) error {
				return p.SyncWatch(cmd.Context(), args, token, most, func(c app.SyncChange) error {
					return lines.Encode(struct {
						Token  string         `json:"token"`
						Change app.SyncChange `json:"change"`
					}{c.Token.String(), c})
				})
			})
		},
	}
	c.Flags().StringVar(&token, "token", "", "go on after this `token`")
	c.Flags().IntVar(&most, "count", 0, "end after this `number` of changes; 0 means never")
	return c
}

func syncConflicts(env *environment) *cobra.Command {
	var open bool
	var limit positive
	c := &cobra.Command{
		Use: "conflicts [TYPE:ID]", Short: "List decisions between two changes, newest first", Args: cobra.MaximumNArgs(1),
		Example: "  rootstream sync conflicts --open",
		RunE: func(cmd *cobra.Command, args []string) error {
			entity := ""
			if len(args) > 0 {
				entity = args[0]
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				all, err := p.SyncConflicts(cmd.Context(), entity, open, int(limit))
				if err != nil {
					return err
				}
				return list(env, all,
					column[app.SyncConflict]{"ID", func(c app.SyncConflict) any { return c.ID }},
					column[app.SyncConflict]{"AT", func(c app.SyncConflict) any { return c.At }},
					column[app.SyncConflict]{"ENTITY", func(c app.SyncConflict) any { return c.AggregateType + ":" + c.AggregateID.String() }},
					column[app.SyncConflict]{"RULE", func(c app.SyncConflict) any { return c.Rule }},
					column[app.SyncConflict]{"LOST", func(c app.SyncConflict) any { return string(c.Loser) }},
					column[app.SyncConflict]{"RESOLVED", func(c app.SyncConflict) any { return c.ResolvedAt }})
			})
		},
	}
	c.Flags().BoolVar(&open, "open", false, "only those that nobody has resolved")
	limitFlag(c.Flags(), &limit, 100)
	return c
}

func syncSnapshot(env *environment) *cobra.Command {
	var since string
	var listed bool
	var limit positive
	c := &cobra.Command{
		Use: "snapshot", Short: "Store the state of everything and print the snapshot's id", Args: cobra.NoArgs,
		Example: "  rootstream sync snapshot\n  rootstream sync snapshot --list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var base app.ID
			if since != "" {
				var err error
				if base, err = app.ParseID("--since", since); err != nil {
					return err
				}
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				if listed {
					all, err := p.Sync.Snapshots(cmd.Context(), int(limit))
					if err != nil {
						return err
					}
					return list(env, all, snapshotColumns()...)
				}
				s, err := p.SyncSnapshot(cmd.Context(), base)
				if err != nil {
					return err
				}
				if env.output == "json" {
					return env.json(s)
				}
				_, err = fmt.Fprintln(env.stdout, s.ID)
				return err
			})
		},
	}
	c.Flags().StringVar(&since, "since", "", "only what has changed since this `snapshot`")
	c.Flags().BoolVar(&listed, "list", false, "list those there are instead")
	limitFlag(c.Flags(), &limit, 100)
	return c
}

func snapshotColumns() []column[app.SyncSnapshot] {
	return []column[app.SyncSnapshot]{
		{"ID", func(s app.SyncSnapshot) any { return s.ID }},
		{"AT", func(s app.SyncSnapshot) any { return s.At }},
		{"KIND", func(s app.SyncSnapshot) any { return s.Kind }},
		{"ENTITIES", func(s app.SyncSnapshot) any { return s.Entities }},
		{"BYTES", func(s app.SyncSnapshot) any { return s.Bytes }},
	}
}

func syncRestore(env *environment) *cobra.Command {
	var conflict, dry bool
	c := &cobra.Command{
		Use: "restore ID", Short: "Bring state back to a snapshot, or to the value that lost a conflict", Args: cobra.ExactArgs(1),
		Example: "  rootstream sync restore 0198c0de-0000-7000-8000-000000000000 --dry-run\n  rootstream sync restore --conflict 0198c0de-0000-7000-8000-000000000000",
		Long: `Bring every entity in a snapshot back to what it was then, or with --conflict one entity to the value that lost.

It is done by changes like any other: what is replaced stays in the history. What came into being since the snapshot is left alone.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.ParseID("ID", args[0])
			if err != nil {
				return err
			}
			if conflict && dry {
				return usage("--dry-run is for snapshots")
			}
			if !dry {
				if err := env.confirm("change state back", args[0]); err != nil {
					return err
				}
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				if conflict {
					return env.restoreConflict(cmd, p, id)
				}
				return env.restoreSnapshot(cmd, p, id, dry)
			})
		},
	}
	c.Flags().BoolVar(&conflict, "conflict", false, "ID is that of a conflict")
	c.Flags().BoolVar(&dry, "dry-run", false, "change nothing, tell how many entities differ")
	return c
}

func (env *environment) restoreConflict(cmd *cobra.Command, p *app.Parts, id app.ID) error {
	d, err := p.SyncRestoreConflict(cmd.Context(), id)
	if err != nil {
		return err
	}
	return one(env, d, docColumns()...)
}

func (env *environment) restoreSnapshot(cmd *cobra.Command, p *app.Parts, id app.ID, dry bool) error {
	n, err := p.SyncRestore(cmd.Context(), id, dry)
	if err != nil {
		return err
	}
	if env.output == "json" {
		return env.json(map[string]any{"restored": n, "dry_run": dry})
	}
	if dry {
		env.say("entities that differ from the snapshot, and would be brought back:")
	} else {
		env.say("entities that differed from the snapshot, and were brought back:")
	}
	_, err = fmt.Fprintln(env.stdout, n)
	return err
}
