package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// column is one column of a table: its title and how to read it from a row.
type column[T any] struct {
	title string
	cell  func(T) any
}

// list prints rows as a table, or as a JSON array.
func list[T any](env *environment, rows []T, columns ...column[T]) error {
	if env.output == "json" {
		if rows == nil {
			rows = []T{}
		}
		return env.json(rows)
	}
	w := tabwriter.NewWriter(env.stdout, 0, 4, 2, ' ', 0)
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	_, _ = fmt.Fprintln(w, strings.Join(titles, "\t"))
	for _, r := range rows {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = text(c.cell(r))
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// one prints a single thing: a line a column, or a JSON object.
func one[T any](env *environment, row T, columns ...column[T]) error {
	if env.output == "json" {
		return env.json(row)
	}
	w := tabwriter.NewWriter(env.stdout, 0, 4, 2, ' ', 0)
	for _, c := range columns {
		_, _ = fmt.Fprintf(w, "%s\t%s\n", c.title, text(c.cell(row)))
	}
	return w.Flush()
}

func (env *environment) json(v any) error {
	e := json.NewEncoder(env.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// text shows a value in a table: times in RFC 3339, absent as a dash, no control characters.
func text(v any) string {
	switch x := v.(type) {
	case nil:
		return "-"
	case time.Time:
		if x.IsZero() {
			return "-"
		}
		return x.UTC().Format(time.RFC3339)
	case *time.Time:
		if x == nil {
			return "-"
		}
		return text(*x)
	}
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, fmt.Sprint(v))
	if s == "" || s == "<nil>" {
		return "-"
	}
	return s
}

// say writes a line for people to standard error.
func (env *environment) say(format string, args ...any) {
	_, _ = fmt.Fprintf(env.stderr, format+"\n", args...)
}

// interactive reports whether a person can answer.
func (env *environment) interactive() bool {
	f, ok := env.stdin.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

var errUnconfirmed = errors.New("not confirmed, nothing was changed")

// confirm asks for the name of what is about to be destroyed, unless --yes says so already.
func (env *environment) confirm(what, name string) error {
	if env.yes {
		return nil
	}
	if !env.interactive() {
		return usage("this would %s: add --yes to say so", what)
	}
	_, _ = fmt.Fprintf(env.stderr, "This will %s. Type %q to go on: ", what, name)
	line, err := bufio.NewReader(env.stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != name {
		return usageError{errUnconfirmed}
	}
	return nil
}

const maxSecretLine = 4096

// secretLine reads a password: from the terminal without echo, else one line of standard input.
func (env *environment) secretLine(prompt string) (string, error) {
	if f, ok := env.stdin.(*os.File); ok && env.interactive() {
		_, _ = fmt.Fprint(env.stderr, prompt)
		b, err := term.ReadPassword(int(f.Fd()))
		_, _ = fmt.Fprintln(env.stderr)
		return string(b), err
	}
	line, err := bufio.NewReader(io.LimitReader(env.stdin, maxSecretLine)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
