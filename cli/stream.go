package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"rootstream/app"
)

func streamCommand(env *environment) *cobra.Command {
	c := &cobra.Command{Use: "stream", Short: "Manage streams", Example: "  rootstream stream create --owner ada \"Friday night\""}
	c.AddCommand(streamCreate(env), streamList(env),
		streamAct(env, "show", "Show one stream", func(p *app.Parts, cmd *cobra.Command, a app.StreamAccount, id app.ID) error {
			s, err := p.Streams.ByPublicID(cmd.Context(), a, id)
			if err != nil {
				return err
			}
			return one(env, s, streamColumns()...)
		}),
		streamAct(env, "start", "Make a stream live", func(p *app.Parts, cmd *cobra.Command, a app.StreamAccount, id app.ID) error {
			s, err := p.Streams.Start(cmd.Context(), a, id, app.StreamStats{})
			if err != nil {
				return err
			}
			return one(env, s, liveColumns()...)
		}),
		streamAct(env, "stop", "End a stream's being live", func(p *app.Parts, cmd *cobra.Command, a app.StreamAccount, id app.ID) error {
			s, err := p.Streams.Stop(cmd.Context(), a, id)
			if err != nil {
				return err
			}
			return one(env, s, liveColumns()...)
		}),
	)
	return c
}

func streamColumns() []column[app.Stream] {
	return []column[app.Stream]{
		{"ID", func(s app.Stream) any { return s.PublicID }},
		{"NAME", func(s app.Stream) any { return s.Name }},
		{"OWNER", func(s app.Stream) any { return s.UserID }},
		{"LIVE", func(s app.Stream) any { return s.IsLive }},
		{"PUBLIC", func(s app.Stream) any { return s.IsPublic }},
		{"VIEWERS", func(s app.Stream) any { return s.ViewerCount }},
		{"STARTED", func(s app.Stream) any { return s.StartedAt }},
	}
}

func liveColumns() []column[app.StreamSession] {
	return []column[app.StreamSession]{
		{"ID", func(s app.StreamSession) any { return s.PublicID }},
		{"STARTED", func(s app.StreamSession) any { return s.StartedAt }},
		{"ENDED", func(s app.StreamSession) any { return s.EndedAt }},
		{"PEAK VIEWERS", func(s app.StreamSession) any { return s.PeakViewers }},
		{"TOTAL VIEWERS", func(s app.StreamSession) any { return s.TotalViewers }},
		{"BYTES", func(s app.StreamSession) any { return s.TotalBytesSent }},
	}
}

func streamCreate(env *environment) *cobra.Command {
	var owner string
	var d app.StreamDraft
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a stream and print its key, this once", Args: cobra.ExactArgs(1),
		Example: "  rootstream stream create --owner ada \"Friday night\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			if owner == "" {
				return usageOf(cmd, errors.New("--owner is required"))
			}
			d.Name = args[0]
			return env.with(cmd.Context(), func(p *app.Parts) error {
				a, err := p.StreamOwner(cmd.Context(), owner)
				if err != nil {
					return err
				}
				made, err := p.Streams.Create(cmd.Context(), a, d)
				if err != nil {
					return err
				}
				shown := struct {
					app.Stream
					Key string `json:"stream_key"`
				}{made.Stream, made.Key.Reveal()}
				if env.output == "json" {
					return env.json(shown)
				}
				return one(env, made, column[app.CreatedStream]{"ID", func(c app.CreatedStream) any { return c.Stream.PublicID }},
					column[app.CreatedStream]{"STREAM KEY", func(c app.CreatedStream) any { return c.Key.Reveal() }})
			})
		},
	}
	c.Flags().StringVar(&owner, "owner", "", "`account` it belongs to (required)")
	c.Flags().StringVar(&d.Description, "description", "", "what it is about")
	return c
}

func streamList(env *environment) *cobra.Command {
	var owner string
	var live bool
	var limit positive
	c := &cobra.Command{
		Use: "list", Short: "List streams, newest first", Args: cobra.NoArgs, Example: "  rootstream stream list --live",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				a, err := p.StreamOwner(cmd.Context(), owner)
				if err != nil {
					return err
				}
				f := app.StreamFilter{Mine: owner != ""}
				if live {
					f.Live = &live
				}
				streams, err := p.ListStreams(cmd.Context(), a, f, int(limit))
				if err != nil {
					return err
				}
				return list(env, streams, streamColumns()...)
			})
		},
	}
	c.Flags().StringVar(&owner, "owner", "", "only those of this `account`")
	c.Flags().BoolVar(&live, "live", false, "only those that are live")
	limitFlag(c.Flags(), &limit, 1000)
	return c
}

func streamAct(env *environment, use, short string, act func(*app.Parts, *cobra.Command, app.StreamAccount, app.ID) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: cobra.ExactArgs(1),
		Example: "  rootstream stream " + use + " 0198c0de-0000-7000-8000-000000000000",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.ParseID("ID", args[0])
			if err != nil {
				return err
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				a, err := p.StreamOwner(cmd.Context(), "")
				if err != nil {
					return err
				}
				return act(p, cmd, a, id)
			})
		},
	}
}
