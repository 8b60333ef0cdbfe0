package cli

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// bar shows how far something is, on a terminal, once it has taken a while.
type bar struct {
	screen *os.File // nil: nobody looks
	what   string
	began  time.Time

	mu    sync.Mutex
	shown bool
	last  time.Time
}

const (
	barAfter = 2 * time.Second
	barEvery = 200 * time.Millisecond
	barWidth = 24
)

// progress begins a bar; show is for any goroutine, end takes it off the terminal.
func (env *environment) progress(what string) *bar {
	b := &bar{what: what, began: time.Now()}
	if f, ok := env.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		b.screen = f
	}
	return b
}

// show draws the bar: done of total bytes, and what is going on.
func (b *bar) show(done, total int64, doing string) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.screen == nil || now.Sub(b.began) < barAfter || now.Sub(b.last) < barEvery {
		return
	}
	b.last, b.shown = now, true
	text := barText(b.what, done, total, now.Sub(b.began)) + " " + doing
	if width, _, err := term.GetSize(int(b.screen.Fd())); err == nil && width > 0 {
		text = firstOf(text, width-1) // what wraps is not wiped by the next
	}
	_, _ = fmt.Fprintf(b.screen, "\r\x1b[K%s", text)
}

// end removes the bar.
func (b *bar) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown {
		_, _ = fmt.Fprint(b.screen, "\r\x1b[K")
	}
	b.screen = nil
	b.shown = false
}

// firstOf is as much of text as fits in so many columns.
func firstOf(text string, columns int) string {
	if r := []rune(text); len(r) > max(columns, 0) {
		return string(r[:max(columns, 0)])
	}
	return text
}

// barText is the bar without the terminal.
func barText(what string, done, total int64, took time.Duration) string {
	if total <= 0 {
		return fmt.Sprintf("%s %s", what, bytesText(done))
	}
	done = min(done, total)
	filled := int(done * barWidth / total)
	text := fmt.Sprintf("%s [%s%s] %3d %% %s of %s", what, strings.Repeat("#", filled), strings.Repeat("-", barWidth-filled),
		done*100/total, bytesText(done), bytesText(total))
	if rate := float64(done) / took.Seconds(); done > 0 && done < total && rate > 0 {
		text += fmt.Sprintf(", %s left", time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second))
	}
	return text
}
