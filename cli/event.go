package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"rootstream/app"
)

// errCheckFailed is the exit code of a check that found something.
const errCheckFailed exitError = 8

func eventCommand(env *environment) *cobra.Command {
	c := &cobra.Command{Use: "event", Short: "Read and check the log of events", Example: "  rootstream event list --user ada"}
	c.AddCommand(eventAppend(env), eventList(env), eventReplay(env), eventVerify(env))
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
	var limit positive
	c := &cobra.Command{
		Use: "list [TYPE:ID]", Short: "List an entity's history, or an account's audit trail", Args: cobra.MaximumNArgs(1),
		Example: "  rootstream event list --user ada\n  rootstream event list stream:0198c0de-0000-7000-8000-000000000000",
		RunE: func(cmd *cobra.Command, args []string) error {
			if (user == "") == (len(args) == 0) {
				return usageError{errors.New("name an entity as TYPE:ID, or an account with --user")}
			}
			return env.with(cmd.Context(), func(p *app.Parts) (err error) {
				var events []app.Event
				if user != "" {
					events, err = p.AuditOf(cmd.Context(), user, int(limit))
				} else {
					events, err = p.EventsOf(cmd.Context(), args[0], 0, int(limit))
				}
				if err != nil {
					return err
				}
				return list(env, events, eventColumns()...)
			})
		},
	}
	c.Flags().StringVar(&user, "user", "", "the audit trail of this `account`, newest first")
	limitFlag(c.Flags(), &limit, 1000)
	return c
}

func eventReplay(env *environment) *cobra.Command {
	var from int64
	c := &cobra.Command{
		Use: "replay TYPE:ID", Short: "Print an entity's events in order, one JSON object a line", Args: cobra.ExactArgs(1),
		Example: "  rootstream event replay stream:0198c0de-0000-7000-8000-000000000000 --from 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				return p.ReplayEvents(cmd.Context(), args[0], from, env.stdout)
			})
		},
	}
	c.Flags().Int64Var(&from, "from", 1, "first `version`")
	return c
}

func eventVerify(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Prove that the log has no gap; exit code 8 if it has", Args: cobra.NoArgs, Example: "  rootstream event verify",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				gaps, err := p.Events.Verify(cmd.Context())
				if err != nil {
					return err
				}
				if len(gaps) == 0 {
					env.say("the log is gapless")
					if env.output == "json" {
						return env.json([]app.Gap{})
					}
					return nil
				}
				if err := list(env, gaps,
					column[app.Gap]{"PLACE", func(g app.Gap) any { return g.Place }},
					column[app.Gap]{"AFTER", func(g app.Gap) any { return g.After }},
					column[app.Gap]{"NEXT", func(g app.Gap) any { return g.Next }}); err != nil {
					return err
				}
				return errCheckFailed
			})
		},
	}
}
