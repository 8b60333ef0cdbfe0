package devstack

import (
	"context"
	"log/slog"

	"rootstream/internal/proc"
)

// What the tables of small parts reach.
func Rotate(path string, limit int64) error        { return rotate(path, limit) }
func Listeners(table string, port uint64) []string { return listeners(table, port) }
func URLOf(listen string, tls bool) string         { return urlOf(listen, tls) }
func ReadPorts(path string) (int, error)           { return readPorts(path) }
func HasVar(environ, want []byte) bool             { return hasVar(environ, want) }
func Owns(l Layout, name string, pid int) bool     { return l.owns(name, pid) }
func LockHolder(path string) string                { return lockHolder(path) }
func LetPass(ctx context.Context, dir string, a proc.Account) error {
	return letPass(ctx, slog.New(slog.DiscardHandler), dir, a)
}

func JudgeSpace(dir string, free, size, least uint64) Check {
	return judgeSpace(dir, free, size, least)
}

func Tail(path string, from int64) string { return tail(path, from) }
