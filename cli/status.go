package cli

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rootstream/app/config"
	"rootstream/app/doctor"
)

func statusCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what runs and how it is", Args: cobra.NoArgs, Example: "  rootstream status\n  rootstream status -o json",
		Long: `Ask PostgreSQL, Redis and the API how they are, and count what is in the database.

A part is up, down, or off when nobody asked for it. Exit code 8 if one is down.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := config.Find(env.source(nil), env.dataDir)
			if err != nil {
				return err
			}
			parts, err := doctor.Status(cmd.Context(), t)
			if err != nil {
				return err
			}
			if err := list(env, parts,
				column[doctor.PartStatus]{"PART", func(s doctor.PartStatus) any { return s.Name }},
				column[doctor.PartStatus]{"STATE", func(s doctor.PartStatus) any { return s.State }},
				column[doctor.PartStatus]{"DETAIL", func(s doctor.PartStatus) any { return s.Detail }}); err != nil {
				return err
			}
			if slices.ContainsFunc(parts, doctor.PartStatus.Down) {
				env.say("what is wrong, and what to do: rootstream doctor")
				return errCheckFailed
			}
			return nil
		},
	}
}

func doctorCommand(env *environment) *cobra.Command {
	var listen string
	var repo repoFlags
	c := &cobra.Command{
		Use: "doctor", Short: "Find what is wrong here and say what to do about it", Args: cobra.NoArgs,
		Example: "  rootstream doctor\n  rootstream doctor --data ~/rootstream\n  rootstream doctor --config /etc/rootstream.yaml -o json\n" +
			"  rootstream doctor --repo file:///mnt/backups/main --key-file /etc/rootstream/backup.key --dsn \"host=/run/postgresql user=postgres\"",
		Long: `Look at this machine, the data folder and the servers, and say what is wrong and what
to do about it. Where only backups are set up, of any PostgreSQL, it looks at those. Changes nothing. Exit code 8 if anything needs attention.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings := repo.settings()
			settings["http.listen"] = listen
			findings := doctor.Examine(cmd.Context(), doctor.Options{Source: env.source(settings), DataDir: env.dataDir})
			if err := env.diagnosis(findings); err != nil {
				return err
			}
			if n := count(findings, func(f doctor.Finding) bool { return !f.OK }); n > 0 {
				env.say("%d of %d checks failed", n, len(findings))
				return errCheckFailed
			}
			env.say("all %d checks passed", len(findings))
			return nil
		},
	}
	repo.add(c.Flags())
	c.Flags().StringVar(&listen, "listen", "", "`address` that rootstream up is to listen on")
	return c
}

// diagnosis prints findings, what failed first, each remedy on a line of its own.
func (env *environment) diagnosis(findings []doctor.Finding) error {
	if env.output == "json" {
		return env.json(findings)
	}
	bad, good := "FAILED", "ok"
	if f, ok := env.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		bad, good = "✗", "✓"
	}
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Name))
	}
	ordered := slices.Clone(findings)
	slices.SortStableFunc(ordered, func(a, b doctor.Finding) int { return cmp.Compare(rank(a), rank(b)) })
	var out strings.Builder
	for _, f := range ordered {
		mark := good
		if !f.OK {
			mark = bad
		}
		fmt.Fprintf(&out, "%-6s %-*s  %s\n", mark, width, f.Name, text(f.Detail))
		if f.Remedy != "" {
			fmt.Fprintf(&out, "%*s  → %s\n", 7+width, "", text(f.Remedy))
		}
	}
	_, err := fmt.Fprint(env.stdout, out.String())
	return err
}

func rank(f doctor.Finding) int {
	if f.OK {
		return 1
	}
	return 0
}

func count[T any](all []T, is func(T) bool) int {
	n := 0
	for _, v := range all {
		if is(v) {
			n++
		}
	}
	return n
}
