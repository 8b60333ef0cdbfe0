package cli

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"rootstream/app"
)

func userCommand(env *environment) *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Manage accounts", Example: "  rootstream user add ada --email ada@example.org --role admin"}
	c.AddCommand(userAdd(env), userList(env), userShow(env), userRole(env), userEmail(env), userDelete(env), userImport(env), userExport(env),
		userAct(env, "verify", "Mark the e-mail address as verified", (*app.Parts).VerifyUser),
		userAct(env, "disable", "Keep the account from signing in and end its sessions", (*app.Parts).DisableUser),
		userAct(env, "enable", "Let the account sign in again", (*app.Parts).EnableUser),
	)
	return c
}

func userColumns() []column[app.User] {
	return []column[app.User]{
		{"ID", func(u app.User) any { return u.PublicID }},
		{"USERNAME", func(u app.User) any { return u.Username }},
		{"EMAIL", func(u app.User) any { return u.Email }},
		{"ROLE", func(u app.User) any { return u.Role }},
		{"VERIFIED", func(u app.User) any { return u.IsVerified }},
		{"ACTIVE", func(u app.User) any { return u.IsActive }},
		{"LAST LOGIN", func(u app.User) any { return u.LastLoginAt }},
		{"CREATED", func(u app.User) any { return u.CreatedAt }},
	}
}

func userAdd(env *environment) *cobra.Command {
	var email, role, passwordFile string
	var verified bool
	c := &cobra.Command{
		Use: "add USERNAME", Short: "Make an account", Args: cobra.ExactArgs(1),
		Example: `  rootstream user add ada --email ada@example.org
  rootstream user add root --email root@example.org --role admin --verified < password.txt`,
		Long: `Make an account. The password is asked for, or read from standard input (one line) or a file.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if email == "" {
				return usageOf(cmd, errors.New("--email is required"))
			}
			password, err := env.password(passwordFile)
			if err != nil {
				return err
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				u, err := p.AddUser(cmd.Context(), app.Account{
					Registration: app.Registration{Username: args[0], Email: email, Password: password}, Role: app.Role(role), Verified: verified,
				})
				if err != nil {
					return err
				}
				return one(env, u, userColumns()...)
			})
		},
	}
	c.Flags().StringVar(&email, "email", "", "e-mail `address` (required)")
	c.Flags().StringVar(&role, "role", "user", "`role`: user, operator or admin")
	c.Flags().StringVar(&passwordFile, "password-file", "", "`file` with the password")
	c.Flags().BoolVar(&verified, "verified", false, "the address is known to be right")
	return c
}

// password reads a new password from a file, else from the terminal or standard input.
func (env *environment) password(file string) (string, error) {
	if file == "" {
		return env.secretLine("Password: ")
	}
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return "", usage("read the password: %w", err)
	}
	defer func() { _ = f.Close() }()
	from := *env
	from.stdin = f
	return from.secretLine("")
}

func userList(env *environment) *cobra.Command {
	var f app.UserFilter
	var role string
	var limit positive
	c := &cobra.Command{
		Use: "list", Short: "List accounts", Args: cobra.NoArgs, Example: "  rootstream user list --role admin",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.Role = app.Role(role)
			return env.with(cmd.Context(), func(p *app.Parts) error {
				users, err := p.ListUsers(cmd.Context(), f, int(limit))
				if err != nil {
					return err
				}
				return list(env, users, userColumns()...)
			})
		},
	}
	c.Flags().StringVar(&role, "role", "", "only this `role`")
	c.Flags().StringVar(&f.Search, "search", "", "only names and addresses that contain `text`")
	limitFlag(c.Flags(), &limit, 1000)
	return c
}

func userShow(env *environment) *cobra.Command {
	return userAct(env, "show", "Show one account", (*app.Parts).FindUser)
}

// userAct is a command on one account that shows it afterwards.
func userAct(env *environment, use, short string, act func(*app.Parts, context.Context, string) (app.User, error)) *cobra.Command {
	return &cobra.Command{
		Use: use + " USER", Short: short, Args: cobra.ExactArgs(1), Example: "  rootstream user " + use + " ada",
		RunE: func(cmd *cobra.Command, args []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				u, err := act(p, cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return one(env, u, userColumns()...)
			})
		},
	}
}

func userRole(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "role USER ROLE", Short: "Change what an account may do: user, operator or admin", Args: cobra.ExactArgs(2),
		Example: "  rootstream user role ada operator",
		RunE: func(cmd *cobra.Command, args []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				u, err := p.SetRole(cmd.Context(), args[0], args[1])
				if err != nil {
					return err
				}
				return one(env, u, userColumns()...)
			})
		},
	}
}

func userEmail(env *environment) *cobra.Command {
	var verified bool
	c := &cobra.Command{
		Use: "email USER ADDRESS", Short: "Give an account another e-mail address", Args: cobra.ExactArgs(2),
		Example: "  rootstream user email ada ada@example.net\n  rootstream user email ada ada@example.net --verified",
		Long: `Give an account another e-mail address. Its sessions go on, links mailed so far end, and the old address is told.
Without --verified the new address gets a link to verify it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error {
				u, err := p.SetEmail(cmd.Context(), args[0], args[1], verified)
				if err != nil {
					return err
				}
				return one(env, u, userColumns()...)
			})
		},
	}
	c.Flags().BoolVar(&verified, "verified", false, "the address is known to be right")
	return c
}

func userDelete(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "delete USER", Short: "Delete an account and all it has", Args: cobra.ExactArgs(1), Example: "  rootstream user delete ada --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := env.confirm("delete the account "+args[0]+" with its sessions, streams and recordings' records", args[0]); err != nil {
				return err
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				if err := p.DeleteUser(cmd.Context(), args[0]); err != nil {
					return err
				}
				env.say("deleted")
				return nil
			})
		},
	}
}

func userExport(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "export USER", Short: "Write everything that is kept about an account, as JSON", Args: cobra.ExactArgs(1),
		Example: "  rootstream user export ada > ada.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return env.with(cmd.Context(), func(p *app.Parts) error { return p.ExportUser(cmd.Context(), args[0], env.stdout) })
		},
	}
}

func userImport(env *environment) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "import FILE", Short: "Import accounts with their password hashes (JSON lines)", Args: cobra.ExactArgs(1),
		Example: "  rootstream user import users.jsonl\n  rootstream user import - < users.jsonl",
		Long: `Import accounts, one JSON object a line, with bcrypt or Argon2 hashes:

  {"username":"ada","email":"ada@example.org","password_hash":"$2b$12$…","verified":true}

A line that cannot be imported is named on standard error and skipped; then the exit code is 7.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			in := env.stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return usage("read the accounts: %w", err)
				}
				defer func() { _ = f.Close() }()
				in = f
			}
			return env.with(cmd.Context(), func(p *app.Parts) error {
				sum, err := p.Users.Import(cmd.Context(), in, app.ImportOptions{DryRun: dry, Report: func(l app.ImportLine) {
					if l.Err != nil {
						env.say("line %d %s: %v", l.Line, harmless(l.Username), l.Err)
					}
				}})
				if err != nil {
					return err
				}
				return env.importSummary(sum)
			})
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "check only")
	return c
}
