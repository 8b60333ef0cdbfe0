package cli

import (
	"errors"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// positive is a flag's number that must be at least 1.
type positive int

var errNotPositive = errors.New("must be a whole number of at least 1")

// String returns the number.
func (p *positive) String() string { return strconv.Itoa(int(*p)) }

// Set reads the number.
func (p *positive) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return errNotPositive
	}
	*p = positive(n)
	return nil
}

// Type names the kind of value in help.
func (p *positive) Type() string { return "number" }

// limitFlag adds --limit.
func limitFlag(flags *pflag.FlagSet, limit *positive, usual int) {
	*limit = positive(usual)
	flags.Var(limit, "limit", "at most so many")
}

// complete names the values of a flag to the shell.
func complete(c *cobra.Command, flag string, values ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails where there is no such flag
}
