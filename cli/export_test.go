package cli

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Accepts reports why the program would not run a command line. It runs nothing.
func Accepts(args []string) error {
	root := newRoot(&environment{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard})
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if cmd.HasAvailableSubCommands() && cmd.Flags().NArg() > 0 {
		return unknownCommand(cmd, cmd.Flags().Arg(0))
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// Commands returns all commands there are, and their examples.
func Commands() map[string]string {
	all := map[string]string{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		all[c.CommandPath()] = c.Example
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&environment{}))
	return all
}
