package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rootstream/app"
	"rootstream/internal/counted"
)

// errCheckFailed is the exit code of a check that found something.
const errCheckFailed exitError = 8

func eventCommand(env *environment) *cobra.Command {
	c := &cobra.Command{Use: "event", Short: "Read, check and shorten the log of events", Example: "  rootstream event list --user ada"}
	c.AddCommand(eventAppend(env), eventList(env), eventReplay(env), eventVerify(env), eventPrune(env), eventErase(env))
	return c
}

func eventColumns() []column[app.Event] {
	return []column[app.Event]{
		{"AT", func(e app.Event) any { return e.At }},
		{"ENTITY", func(e app.Event) any { return e.AggregateType + ":" + e.AggregateID.String() }},
		{"VERSION", func(e app.Event) any { return e.Version }},
		{"EVENT", func(e app.Event) any { return e.Name }},
		{"DATA", func(e app.Event) any { return string(e.Data) }},
	}
}

func eventAppend(env *environment) *cobra.Command {
	var data string
	var expect int64
	c := &cobra.Command{
		Use: "append TYPE:ID EVENT", Short: "Append an event to an entity's history", Args: cobra.ExactArgs(2),
		Example: `  rootstream event append note:0198c0de-0000-7000-8000-000000000000 note.added --payload '{"text_id":7}'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				version, err := p.AppendEvent(cmd.Context(), args[0], args[1], data, expect)
				if err != nil {
					return err
				}
				if env.output == "json" {
					return env.json(map[string]int64{"version": version})
				}
				_, err = fmt.Fprintln(env.stdout, version)
				return err
			})
		},
	}
	c.Flags().StringVar(&data, "payload", "", "the event's `JSON` object")
	c.Flags().Int64Var(&expect, "expect", -1, "`version` the entity must have now; -1 means any, 0 that it is new")
	return c
}

func eventList(env *environment) *cobra.Command {
	var user string
	var since, until moment
	var limit positive
	c := &cobra.Command{
		Use: "list [TYPE:ID]", Short: "List an entity's history, an account's audit trail, or all events of a time", Args: cobra.MaximumNArgs(1),
		Example: "  rootstream event list --user ada\n  rootstream event list stream:0198c0de-0000-7000-8000-000000000000\n  rootstream event list --since 2026-08-01T20:00:00Z --until 2026-08-01T20:15:00Z",
		RunE: func(cmd *cobra.Command, args []string) error {
			span := cmd.Flags().Changed("since") || cmd.Flags().Changed("until")
			asked := 0
			for _, one := range []bool{user != "", len(args) > 0, span} {
				if one {
					asked++
				}
			}
			if asked != 1 {
				return usageError{errors.New("name an entity as TYPE:ID, or an account with --user, or a time with --since and --until")}
			}
			return env.with(cmd.Context(), func(p *app.Parts) (err error) {
				var events []app.Event
				switch {
				case user != "":
					events, err = p.AuditOf(cmd.Context(), user, int(limit))
				case span:
					events, err = p.EventsBetween(cmd.Context(), time.Time(since), time.Time(until), int(limit))
				default:
					events, err = p.EventsOf(cmd.Context(), args[0], 0, int(limit))
				}
				if err != nil {
					return err
				}
				return list(env, events, eventColumns()...)
			})
		},
	}
	until = moment(time.Now().Add(time.Minute))
	c.Flags().StringVar(&user, "user", "", "the audit trail of this `account`, newest first")
	c.Flags().Var(&since, "since", "events of all entities from this `time` on")
	c.Flags().Var(&until, "until", "events of all entities before this `time`")
	c.Flags().Lookup("until").DefValue = "now"
	limitFlag(c.Flags(), &limit, 1000)
	return c
}

func eventReplay(env *environment) *cobra.Command {
	var from, version int64
	var at moment
	c := &cobra.Command{
		Use: "replay TYPE:ID", Short: "Print an entity's events in order, one JSON object a line, or the state they made", Args: cobra.ExactArgs(1),
		Long: "Print an entity's events in order, one JSON object a line.\n\nWith --version or --at print the state that the events made of it instead: what it was at that version or time.",
		Example: "  rootstream event replay stream:0198c0de-0000-7000-8000-000000000000 --from 3\n" +
			"  rootstream event replay stream:0198c0de-0000-7000-8000-000000000000 --at 2026-08-01T20:14:03Z",
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed
			state := given("version") || given("at")
			if given("version") && version < 1 {
				return usageError{errors.New("--version must be at least 1")}
			}
			if given("version") && given("at") || state && given("from") {
				return usageError{errors.New("--from, --version and --at exclude each other")}
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				if !state {
					return p.ReplayEvents(cmd.Context(), args[0], from, env.stdout)
				}
				s, err := p.StateOf(cmd.Context(), args[0], version, time.Time(at))
				if err != nil {
					return err
				}
				return env.json(s)
			})
		},
	}
	c.Flags().Int64Var(&from, "from", 0, "first `version`; 0 means the first that is kept")
	c.Flags().Int64Var(&version, "version", 0, "print the state at this `version`")
	c.Flags().Var(&at, "at", "print the state at this `time`")
	return c
}

// moment is a flag's time, in RFC 3339.
type moment time.Time

// String returns the time.
func (m *moment) String() string {
	if time.Time(*m).IsZero() {
		return ""
	}
	return time.Time(*m).Format(time.RFC3339Nano)
}

// Set reads the time.
func (m *moment) Set(text string) error {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return errNotTime
	}
	*m = moment(t)
	return nil
}

// Type names the kind of value in help.
func (m *moment) Type() string { return "time" }

var errNotTime = errors.New("must be a time like 2026-08-01T20:14:03Z")

// disorder is one thing that is wrong with the log.
type disorder struct {
	Place   string `json:"place"`
	After   int64  `json:"after"`
	Next    int64  `json:"next"`
	Problem string `json:"problem"`
}

func eventVerify(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Prove that the log has no gap and every snapshot is right; exit code 8 if not", Args: cobra.NoArgs, Example: "  rootstream event verify",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				said := time.Now()
				found, err := p.Events.Verify(cmd.Context(), func(f app.EventFindings) {
					if time.Since(said) > 2*time.Second {
						said = time.Now()
						env.say("%s, %s, %s seen", counted.Of(f.Events, "event"), counted.Of(f.Entities, "entity", "entities"), counted.Of(f.Snapshots, "snapshot"))
					}
				})
				if err != nil {
					return err
				}
				return env.disorders(found)
			})
		},
	}
}

func (env *environment) disorders(found app.EventFindings) error {
	all := []disorder{}
	for _, g := range found.Gaps {
		all = append(all, disorder{g.Place, g.After, g.Next, "numbers are missing"})
	}
	for _, m := range found.Mismatches {
		all = append(all, disorder{m.Entity, m.Version, m.Version, "the snapshot is wrong: " + m.Reason})
	}
	if found.OK() {
		env.say("the log is gapless, and every snapshot what its events make: %s, %s, %s", counted.Of(found.Events, "event"), counted.Of(found.Entities, "entity", "entities"), counted.Of(found.Snapshots, "snapshot"))
		if env.output == "json" {
			return env.json(all)
		}
		return nil
	}
	err := list(env, all,
		column[disorder]{"PLACE", func(d disorder) any { return d.Place }},
		column[disorder]{"AFTER", func(d disorder) any { return d.After }},
		column[disorder]{"NEXT", func(d disorder) any { return d.Next }},
		column[disorder]{"PROBLEM", func(d disorder) any { return d.Problem }})
	if err != nil {
		return err
	}
	return errCheckFailed
}

func eventPrune(env *environment) *cobra.Command {
	var before moment
	var dry bool
	c := &cobra.Command{
		Use: "prune --before TIME", Short: "Remove old events that snapshots make dispensable", Args: cobra.NoArgs,
		Example: "  rootstream event prune --before 2026-01-01T00:00:00Z --dry-run\n  rootstream event prune --before 2026-01-01T00:00:00Z --yes",
		Long: `Remove the events of every entity up to its newest snapshot from before a time.

What an entity is stays known, and what it was since that snapshot; what it was before is gone for good, from here and from every
later backup. The last event of an entity is never removed, nor are events that webhooks have not been told of.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("before") {
				return usage("say with --before from when on history is kept")
			}
			if !dry {
				if err := env.confirm("remove history from before "+before.String(), before.String()); err != nil {
					return err
				}
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				n, err := p.PruneEvents(cmd.Context(), time.Time(before), dry)
				if err != nil {
					return err
				}
				return one(env, n,
					column[app.EventsPruned]{"EVENTS", func(n app.EventsPruned) any { return n.Events }},
					column[app.EventsPruned]{"SNAPSHOTS", func(n app.EventsPruned) any { return n.Snapshots }})
			})
		},
	}
	c.Flags().Var(&before, "before", "history from before this `time` may go")
	c.Flags().BoolVar(&dry, "dry-run", false, "remove nothing, tell how much would be")
	return c
}

func eventErase(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "erase TYPE:ID", Short: "Erase the values that the history of an entity holds", Args: cobra.ExactArgs(1),
		Example: "  rootstream event erase note:0198c0de-0000-7000-8000-000000000000 --yes",
		Long: `Erase the values in the events of an entity; of a user, in all of the account's audit trail. That something happened, when, and the
names of the fields stay. The entity's state is empty from here on; others that were changed in the account's name go on with what is
left. What snapshots of it, conflicts and snapshots of all state hold goes too, and what Redis holds; a running instance rewrites
snapshots of all state within about a minute. Backups are not changed.

Deleting an account does this by itself.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := env.confirm("erase the history of "+args[0], args[0]); err != nil {
				return err
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				n, err := p.EraseEvents(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if env.output == "json" {
					return env.json(map[string]int{"erased": n})
				}
				_, err = fmt.Fprintln(env.stdout, n)
				return err
			})
		},
	}
}
