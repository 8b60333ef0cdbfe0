package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"rootstream/app/backups"
)

func backupKey(env *environment, f *repoFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "key", Short: "Look at, add, rotate and remove the keys that open the repository", Example: "  rootstream backup key list",
		Long: `Look at, add, rotate and remove the keys that open the repository.

Any one of its keys opens a repository. Adding and rotating rewrites a small object,
never a backup. Whoever had a key may have kept what it opened, which no rotation
changes: after a leak begin a new repository, and keep the old one from them.`,
	}
	c.AddCommand(backupKeyList(env, f), backupKeyAdd(env, f), backupKeyRotate(env, f), backupKeyRemove(env, f))
	return c
}

func backupKeyList(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the keys of the repository", Args: cobra.NoArgs, Example: "  rootstream backup key list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd.Context(), env, func(b *backups.Operator) error { return env.backupKeys(cmd.Context(), b) })
		},
	}
}

func (env *environment) backupKeys(ctx context.Context, b *backups.Operator) error {
	keys, err := b.Keys(ctx)
	if err != nil {
		return err
	}
	return list(env, keys,
		column[backups.Key]{"KEY", func(k backups.Key) any { return k.ID }},
		column[backups.Key]{"KIND", func(k backups.Key) any { return k.Kind }},
		column[backups.Key]{"ADDED", func(k backups.Key) any { return k.Created }},
		column[backups.Key]{"THE ONE GIVEN", func(k backups.Key) any { return k.Opens }})
}

// newKeyFlags name a key that is to be added.
type newKeyFlags struct{ file, passphrase string }

func (n *newKeyFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&n.file, "new-key-file", "", "`file` with the new key")
	c.Flags().StringVar(&n.passphrase, "new-passphrase-file", "", "`file` with the new passphrase, in place of a key")
}

func backupKeyAdd(env *environment, f *repoFlags) *cobra.Command {
	n := &newKeyFlags{}
	c := &cobra.Command{
		Use: "add", Short: "Let one more key open the repository", Args: cobra.NoArgs, Example: "  rootstream backup key add --new-passphrase-file /run/passphrase",
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := backups.ReadKey(n.file, n.passphrase)
			if err != nil {
				return err
			}
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				id, err := b.AddKey(cmd.Context(), key)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(env.stdout, id)
				return err
			})
		},
	}
	n.add(c)
	return c
}

func backupKeyRotate(env *environment, f *repoFlags) *cobra.Command {
	n := &newKeyFlags{}
	c := &cobra.Command{
		Use: "rotate", Short: "Put a new key in the place of the one given", Args: cobra.NoArgs, Example: "  rootstream backup key rotate --new-key-file /etc/rootstream/backup-2027.key --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := backups.ReadKey(n.file, n.passphrase)
			if err != nil {
				return err
			}
			if err := env.confirm("keep the old key from opening the repository", "rotate"); err != nil {
				return err
			}
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				id, err := b.RotateKey(cmd.Context(), key)
				if err != nil {
					return err
				}
				env.say("keep a copy of the new key elsewhere, and let backup.key_file name it; the old one opens nothing any more")
				_, err = fmt.Fprintln(env.stdout, id)
				return err
			})
		},
	}
	n.add(c)
	return c
}

func backupKeyRemove(env *environment, f *repoFlags) *cobra.Command {
	return &cobra.Command{
		Use: "remove KEY", Short: "Keep a key from opening the repository", Args: cobra.ExactArgs(1), Example: "  rootstream backup key remove 3f0a9c --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := env.confirm("keep key "+args[0]+" from opening the repository", args[0]); err != nil {
				return err
			}
			return f.with(cmd.Context(), env, func(b *backups.Operator) error {
				if err := b.RemoveKey(cmd.Context(), args[0]); err != nil {
					return err
				}
				env.say("the key opens nothing any more")
				return nil
			})
		},
	}
}
