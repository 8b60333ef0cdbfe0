package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"rootstream/app"
)

func sessionCommand(env *environment) *cobra.Command {
	c := &cobra.Command{Use: "session", Short: "Look at and end sessions", Example: "  rootstream session list ada"}
	c.AddCommand(
		&cobra.Command{
			Use: "list USER", Short: "List an account's live sessions", Args: cobra.ExactArgs(1), Example: "  rootstream session list ada -o json",
			RunE: func(cmd *cobra.Command, args []string) error {
				return env.with(cmd.Context(), func(p *app.Parts) error {
					sessions, err := p.SessionsOf(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					return list(env, sessions, sessionColumns()...)
				})
			},
		},
		&cobra.Command{
			Use: "show ID", Short: "Show one session, live or not", Args: cobra.ExactArgs(1),
			Example: "  rootstream session show 0198c0de-0000-7000-8000-000000000000",
			RunE: func(cmd *cobra.Command, args []string) error {
				id, err := app.ParseID("ID", args[0])
				if err != nil {
					return err
				}
				return env.with(cmd.Context(), func(p *app.Parts) error {
					s, err := p.ShowSession(cmd.Context(), id)
					if err != nil {
						return err
					}
					return one(env, s, append(sessionColumns(),
						column[app.Session]{"REVOKED", func(s app.Session) any { return s.RevokedAt }},
						column[app.Session]{"REASON", func(s app.Session) any { return s.RevokedReason }})...)
				})
			},
		},
		sessionRevoke(env), sessionRevokeAll(env),
		&cobra.Command{
			Use: "cleanup", Short: "Remove sessions that ended long ago", Args: cobra.NoArgs, Example: "  rootstream session cleanup",
			RunE: func(cmd *cobra.Command, _ []string) error {
				return env.with(cmd.Context(), func(p *app.Parts) error {
					n, err := p.Sessions.Cleanup(cmd.Context())
					if err != nil {
						return err
					}
					return env.count("removed", n)
				})
			},
		},
	)
	return c
}

func sessionColumns() []column[app.Session] {
	return []column[app.Session]{
		{"ID", func(s app.Session) any { return s.ID }},
		{"DEVICE", func(s app.Session) any { return s.Device.Name }},
		{"IP", func(s app.Session) any { return s.Device.IP }},
		{"PLACE", func(s app.Session) any { return s.Device.Location }},
		{"AAL", func(s app.Session) any { return s.AAL }},
		{"ACTIVE", func(s app.Session) any { return s.Active }},
		{"LAST USED", func(s app.Session) any { return s.LastActivity }},
		{"EXPIRES", func(s app.Session) any { return s.ExpiresAt }},
	}
}

func sessionRevoke(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "End one session", Args: cobra.ExactArgs(1),
		Example: "  rootstream session revoke 0198c0de-0000-7000-8000-000000000000",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := app.ParseID("ID", args[0])
			if err != nil {
				return err
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				if err := p.RevokeSession(cmd.Context(), id); err != nil {
					return err
				}
				env.say("the session has ended")
				return nil
			})
		},
	}
}

func sessionRevokeAll(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "revoke-all USER", Short: "End all sessions of an account", Args: cobra.ExactArgs(1), Example: "  rootstream session revoke-all ada --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := env.confirm("end all sessions of "+args[0], args[0]); err != nil {
				return err
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				n, err := p.RevokeSessions(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return env.count("revoked", n)
			})
		},
	}
}

// count prints one number.
func (env *environment) count(what string, n int) error {
	if env.output == "json" {
		return env.json(map[string]int{what: n})
	}
	_, err := fmt.Fprintf(env.stdout, "%d %s\n", n, what)
	return err
}
