package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one figure.
type row struct {
	what   string
	unit   string
	ours   []float64 // by round
	floor  []float64 // by round; nil where there is none
	ratios []float64 // by round; nil where there is none
	target string    // in words; "" where none was set
	met    bool
	detail string
}

// compared is a rate that is judged by its ratio to the floor's.
func compared(what string, ours, floor []float64, least float64) row {
	r := row{what: what, unit: "/s", ours: ours, floor: floor, ratios: ratios(ours, floor)}
	if least > 0 {
		r.target, r.met = fmt.Sprintf("ratio ≥ %.1f", least), middle(r.ratios) >= least
	}
	return r
}

// atLeast is a figure that is judged by itself.
func atLeast(what, unit string, ours []float64, least float64) row {
	return row{what: what, unit: unit, ours: ours, target: "≥ " + number(least), met: middle(ours) >= least}
}

// atMost is a figure that must be small.
func atMost(what, unit string, ours []float64, most float64) row {
	return row{what: what, unit: unit, ours: ours, target: "≤ " + number(most), met: middle(ours) <= most}
}

// about is a figure without a target.
func about(what, unit string, ours ...float64) row { return row{what: what, unit: unit, ours: ours} }

func (r row) with(format string, args ...any) row {
	r.detail = fmt.Sprintf(format, args...)
	return r
}

// number writes v for people: 1,234,567 or 0.42.
func number(v float64) string {
	if v < 100 && v != float64(int64(v)) {
		return strconv.FormatFloat(v, 'f', decimals(v), 64)
	}
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func decimals(v float64) int {
	switch {
	case v < 0.1:
		return 4
	case v < 10:
		return 2
	default:
		return 1
	}
}

// cells are the columns of a row.
func (r row) cells() []string {
	span := ""
	if r.ratios != nil {
		span = fmt.Sprintf("%.2f / %.2f / %.2f", slices.Min(r.ratios), middle(r.ratios), slices.Max(r.ratios))
	} else if len(r.ours) > 1 {
		span = number(slices.Min(r.ours)) + " / " + number(middle(r.ours)) + " / " + number(slices.Max(r.ours))
	}
	floor := ""
	if r.floor != nil {
		floor = number(middle(r.floor))
	}
	met := ""
	if r.target != "" {
		met = map[bool]string{true: "met", false: "**not met**"}[r.met]
	}
	return []string{r.what, number(middle(r.ours)) + " " + r.unit, floor, span, r.target, met}
}

var columns = []string{"figure", "median", "floor", "min / median / max", "target", ""} //nolint:gochecknoglobals // a constant table

// writeTable prints rows in columns.
func writeTable(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		_, _ = fmt.Fprintln(t, strings.ReplaceAll(strings.Join(r.cells(), "\t"), "**", ""))
		if r.detail != "" {
			_, _ = fmt.Fprintln(t, "    "+r.detail)
		}
	}
	return t.Flush()
}

// machine is where it was measured.
type machine struct {
	cpu, memory, kernel, postgres, redis string
	flush                                time.Duration // of 8 KiB to the disk
	loadBefore, loadAfter                string
}

func describe(ctx context.Context, s *stack) machine {
	m := machine{
		cpu: firstMatch("/proc/cpuinfo", "model name"), memory: firstMatch("/proc/meminfo", "MemTotal"),
		postgres: "PostgreSQL " + s.pg.Installation().Version, loadBefore: load(), flush: flushTime(s.dir),
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.kernel = strings.TrimSpace(string(b))
	}
	if out, err := exec.CommandContext(ctx, "redis-server", "--version").Output(); err == nil {
		for word := range strings.FieldsSeq(string(out)) {
			if v, ok := strings.CutPrefix(word, "v="); ok {
				m.redis = "Redis " + v
			}
		}
	}
	return m
}

func firstMatch(file, name string) string {
	b, _ := os.ReadFile(file) //nolint:gosec // of /proc
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(b))
	if len(fields) < 3 {
		return "unknown"
	}
	return strings.Join(fields[:3], " ")
}

// flushTime is how long the disk takes to make 8 KiB durable, which bounds every commit.
func flushTime(dir string) time.Duration {
	f, err := os.CreateTemp(dir, "flush")
	if err != nil {
		return 0
	}
	defer func() { _ = os.Remove(f.Name()); _ = f.Close() }() //nolint:gosec // a file of ours
	var took []time.Duration
	for range 50 {
		begun := time.Now()
		if _, err := f.WriteAt(make([]byte, 8192), 0); err != nil {
			return 0
		}
		if err := f.Sync(); err != nil {
			return 0
		}
		took = append(took, time.Since(begun))
	}
	return quantile(sorted(took), .5)
}

// report is what docs/BENCHMARKS.md says.
type report struct {
	options options
	machine machine
	begun   time.Time
	took    time.Duration
	parts   []part
}

type part struct {
	measure
	rows []row
}

func (r *report) add(m measure, rows []row) { r.parts = append(r.parts, part{m, rows}) }

func (r *report) end(_ context.Context, _ *stack) {
	r.took = time.Since(r.begun)
	r.machine.loadAfter = load()
}

func (r *report) write(file string) error {
	var b bytes.Buffer
	r.head(&b)
	for _, p := range r.parts {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", upperFirst(p.what), strings.TrimSpace(p.note))
		fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
		for _, row := range p.rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row.cells(), " | "))
		}
		for _, row := range p.rows {
			if row.detail != "" {
				fmt.Fprintf(&b, "\n- %s: %s", row.what, row.detail)
			}
		}
		b.WriteString("\n")
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // documentation
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644) //nolint:gosec // documentation
}

func (r *report) head(b *bytes.Buffer) {
	m := r.machine
	fmt.Fprintf(b, "# Benchmarks\n\nWritten by `go run ./bench %s` on %s, in %s.\n\n", strings.Join(r.options.args, " "),
		r.begun.UTC().Format("2006-01-02 15:04 MST"), r.took.Round(time.Second))
	fmt.Fprintf(b, "Machine: %d cores (%s), %s memory, Linux %s; 8 KiB are on its disk after %.2f ms (median). %s, %s, %s.\n",
		runtime.NumCPU(), m.cpu, m.memory, m.kernel, m.flush.Seconds()*1000, runtime.Version(), m.postgres, m.redis)
	fmt.Fprintf(b, "Load average before: %s, after: %s (the measurements themselves included).\n\n", m.loadBefore, m.loadAfter)
	b.WriteString("PostgreSQL runs with fsync and synchronous_commit on and data checksums, PostgreSQL and Redis as `rootstream up`\n" +
		"configures them; everything shares this one machine: servers, floors and the generator of load. What is compared takes\n" +
		"turns in short rounds; a ratio is that of one round, its median is judged. Limits of attempts are raised for `serve`.\n\n" +
		"Whether anything is lost while everything breaks is not a matter of speed: [SOAK](SOAK.md).\n\n")
	met, missed := 0, []string{}
	for _, p := range r.parts {
		for _, row := range p.rows {
			switch {
			case row.target == "":
			case row.met:
				met++
			default:
				missed = append(missed, row.what)
			}
		}
	}
	fmt.Fprintf(b, "%d of %d targets are met.", met, met+len(missed))
	if len(missed) > 0 {
		fmt.Fprintf(b, " Not met: %s.", strings.Join(missed, "; "))
	}
	b.WriteString("\n")
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
