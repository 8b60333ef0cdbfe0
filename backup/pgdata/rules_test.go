package pgdata_test

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"rootstream/backup/pgdata"
)

func TestRelationNamesAreTakenApart(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]pgdata.Relation{
		"16384":         {Number: 16384},
		"16384.1":       {Number: 16384, Segment: 1},
		"16384_fsm":     {Number: 16384, Fork: pgdata.FreeSpace},
		"16384_vm.12":   {Number: 16384, Fork: pgdata.Visibility, Segment: 12},
		"16384_init":    {Number: 16384, Fork: pgdata.Init},
		"t3_16384":      {Number: 16384, Temp: true},
		"t12_16384_fsm": {Number: 16384, Fork: pgdata.FreeSpace, Temp: true},
	} {
		if got, ok := pgdata.ParseRelation(name); !ok || got != want {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
	for _, name := range []string{
		"", "PG_VERSION", "pg_filenode.map", "0", "016384", "16384.", "16384.0", "16384.01", "16384_", "16384_main", "16384_fsm_vm",
		"16384.1_fsm", "t_16384", "tx_16384", "t3_", "t3", "+1", "16384.1.2", "16384 ", "99999999999999999999999",
	} {
		if got, ok := pgdata.ParseRelation(name); ok {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

func TestPathsAreInTheOrderOfAWalk(t *testing.T) {
	t.Parallel()
	want := []string{
		"base", "base/1", "base/1/112", "base/1/112_fsm", "base/1-old", "base-old", "global", "global/1213", "pg_xact", "pg_xact/0000",
		"postgresql.conf", "\xff", pgdata.ControlPath,
	}
	for seed := range uint64(20) {
		got := slices.Clone(want)
		for i := range got {
			j := int((seed*7919 + uint64(i)*104729) % uint64(len(got)))
			got[i], got[j] = got[j], got[i]
		}
		slices.SortFunc(got, pgdata.ComparePaths)
		if !slices.Equal(got, want) {
			t.Fatalf("%q", got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.StringMatching(`[a.\-]{1,3}(/[a.\-]{1,3}){0,2}`)
		a, b := path.Draw(t, "a"), path.Draw(t, "b")
		byParts := slices.CompareFunc(strings.Split(a, "/"), strings.Split(b, "/"), cmp.Compare)
		if got := pgdata.ComparePaths(a, b); (got < 0) != (byParts < 0) || (got == 0) != (byParts == 0) {
			t.Fatalf("%d, by their parts %d", got, byParts)
		}
	})
}
