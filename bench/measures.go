package main

import (
	"context"
	"fmt"
	"slices"
)

// measure is one thing that is measured.
type measure struct {
	name string
	what string
	note string // how, for the report
	run  func(ctx context.Context, s *stack) ([]row, error)
}

// measures are in an order that suits the database: those that need a quiet one first, and what leaves millions of
// events behind, over which autovacuum then goes, last.
func measures() []measure {
	return []measure{
		{"million", "a million live sessions: validation, memory", millionNote, measureMillion},
		{"near", "validate from the process's own cache", nearNote, measureNear},
		{"redis", "validate from Redis", redisNote, measureRedis},
		{"postgres", "validate from PostgreSQL", postgresNote, measurePostgres},
		{"http", "validate over HTTP", httpNote, measureHTTP},
		{"batch", "validate-batch over HTTP", batchNote, measureBatch},
		{"create", "create sessions", createNote, measureCreate},
		{"event", "append events", eventNote, measureEvent},
		{"totp", "second factors and passwords on a clock", totpNote, measureFactors},
		{"revoke", "revocation across two processes", revokeNote, measureRevoke},
		{"storm", "a storm of sign-ins", stormNote, measureStorm},
		{"sync", "state that every instance sees", syncNote, measureSync},
		{"watch", "1,000 who watch over HTTP", watchNote, measureWatch},
		{"clients", "120 parallel clients of the database", clientsNote, measureClients},
	}
}

// long are those that are only run when they are named.
func long() []measure {
	return []measure{
		{"durable", "how many durable updates are acknowledged", syncNote, measureDurable},
		{"held", "state beside a snapshot that is held for long", heldNote, measureHeld},
	}
}

func measureNames() []string {
	var names []string
	for _, m := range append(measures(), long()...) {
		names = append(names, m.name)
	}
	return names
}

func checkNames(only []string) error {
	for _, name := range only {
		if !slices.Contains(measureNames(), name) {
			return fmt.Errorf("there is no measurement %q", name)
		}
	}
	return nil
}

func selected(only []string) []measure {
	if len(only) == 0 {
		return measures()
	}
	return slices.DeleteFunc(append(measures(), long()...), func(m measure) bool { return !slices.Contains(only, m.name) })
}
