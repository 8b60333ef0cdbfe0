// Package exampletest stands for a test where there is none: in an example.
package exampletest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
)

// T gives an example what helpers of tests ask for. What would fail a test panics.
type T struct {
	testing.TB
	cleanups []func()
}

// New begins; call End when the example is over.
func New() *T { return &T{} }

// End runs what was to be cleaned up, last things first.
func (t *T) End() {
	for _, fn := range slices.Backward(t.cleanups) {
		fn()
	}
}

// Helper does nothing.
func (*T) Helper() {}

// Logf says nothing: an example's output is its own.
func (*T) Logf(string, ...any) {}

// Name is that of all examples.
func (*T) Name() string { return "Example" }

// Context is one that nobody ends.
func (*T) Context() context.Context { return context.Background() }

// Error panics.
func (*T) Error(args ...any) { panic(fmt.Sprint(args...)) }

// Errorf panics.
func (*T) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// Fatal panics.
func (*T) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// Fatalf panics.
func (*T) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// Cleanup runs fn at the end.
func (t *T) Cleanup(fn func()) { t.cleanups = append(t.cleanups, fn) }

// TempDir is a folder that is removed at the end.
func (t *T) TempDir() string {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
