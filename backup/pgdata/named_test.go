package pgdata_test

import (
	"testing"

	"rootstream/backup/pgdata"
)

// Whatever a walk finds has a name that says so, and what it leaves out has one that says that.
func TestANameTellsWhatACopyNeeds(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ needed, blocks bool }{
		"base/5/1259":                            {true, true},
		"base/5/1259_fsm":                        {true, true},
		"base/5/t3_16390":                        {false, false},
		"base/5/pg_internal.init":                {false, false},
		"base/5/PG_VERSION":                      {true, false},
		"base/pgsql_tmp/pgsql_tmp1.0":            {false, false},
		"global/1262":                            {true, true},
		"pg_xact/0000":                           {true, false},
		"pg_wal":                                 {true, false},
		"pg_wal/archive_status":                  {true, false},
		"pg_wal/archive_status/1.ready":          {false, false},
		"pg_wal/000000010000000000000001":        {false, false},
		"pg_replslot":                            {true, false},
		"pg_replslot/one":                        {false, false},
		"pg_replslot/one/state":                  {false, false},
		"pg_tblspc/16400/PG_15_202209061/5/1259": {true, true},
		"pg_tblspc/16400/PG_14_202107181/5/1259": {false, false},
		"pg_tblspc/16400/lost+found":             {false, false},
		"postmaster.pid":                         {false, false},
		"promote":                                {false, false},
		"backup_label":                           {false, false},
		"postgresql.conf":                        {true, false},
		"conf.d/promote":                         {true, false},
	} {
		e, needed := pgdata.Named(name, "PG_15_202209061")
		if needed != want.needed || e.Blocks != want.blocks || needed && e.Path != name {
			t.Errorf("%s: needed %v, %+v", name, needed, e)
		}
	}
}
