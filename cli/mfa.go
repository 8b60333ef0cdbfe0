package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"rootstream/app"
)

func mfaCommand(env *environment) *cobra.Command {
	c := &cobra.Command{Use: "mfa", Short: "Look at, begin and reset second factors", Example: "  rootstream mfa status ada"}
	c.AddCommand(mfaEnroll(env), mfaReset(env), mfaResume(env), &cobra.Command{
		Use: "status USER", Short: "Show what an account has set up", Args: cobra.ExactArgs(1), Example: "  rootstream mfa status ada",
		RunE: func(cmd *cobra.Command, args []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				s, err := p.MFAStatusOf(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return one(env, s,
					column[app.MFAStatus]{"ENABLED", func(s app.MFAStatus) any { return s.Enabled }},
					column[app.MFAStatus]{"METHODS", func(s app.MFAStatus) any { return strings.Trim(fmt.Sprint(s.Methods), "[]") }},
					column[app.MFAStatus]{"BACKUP CODES LEFT", func(s app.MFAStatus) any { return s.BackupCodesLeft }},
					column[app.MFAStatus]{"LOCKED UNTIL", func(s app.MFAStatus) any { return s.LockedUntil }},
					column[app.MFAStatus]{"SUSPENDED", func(s app.MFAStatus) any { return s.SuspendedAt }},
				)
			})
		},
	})
	return c
}

func mfaEnroll(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "enroll USER", Short: "Begin an authenticator app for an account", Args: cobra.ExactArgs(1), Example: "  rootstream mfa enroll ada",
		Long: `Begin an authenticator app for an account and print its secret, this once.

It counts only when its owner confirms it with a code, within 10 minutes, by
POST /v1/mfa/totp/{factor_id}/confirm.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				e, err := p.EnrollMFA(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				shown := map[string]string{"factor_id": e.FactorID.String(), "secret": e.Secret.Reveal(), "otpauth_uri": e.URI.Reveal()}
				if env.output == "json" {
					return env.json(shown)
				}
				for _, k := range []string{"factor_id", "secret", "otpauth_uri"} {
					if _, err := fmt.Fprintf(env.stdout, "%-12s %s\n", k, shown[k]); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func mfaReset(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "reset USER", Short: "Remove all factors of an account and lift its suspension", Args: cobra.ExactArgs(1), Example: "  rootstream mfa reset ada --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := env.confirm("remove the second factor of "+args[0], args[0]); err != nil {
				return err
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				if err := p.ResetMFA(cmd.Context(), args[0]); err != nil {
					return err
				}
				env.say("the account has no second factor now")
				return nil
			})
		},
	}
}

func mfaResume(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "resume USER", Short: "Lift the suspension of an account's factors, which stay as they are", Args: cobra.ExactArgs(1),
		Example: "  rootstream mfa resume ada",
		RunE: func(cmd *cobra.Command, args []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				if err := p.ResumeMFA(cmd.Context(), args[0]); err != nil {
					return err
				}
				env.say("the account's factors work again")
				return nil
			})
		},
	}
}
