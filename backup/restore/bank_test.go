package restore_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"rootstream/pgserver"
)

// The bank is pgbench's: money moves between accounts, tellers and branches, and all sums are the same at every commit.
const makeBank = `
create table branches (id int primary key, balance bigint not null default 0);
create table tellers (id int primary key, branch int not null, balance bigint not null default 0);
create table accounts (id int primary key, branch int not null, balance bigint not null default 0, filler text);
create table history (id bigserial primary key, account int, delta bigint, at timestamptz default now());
create index on accounts (balance);
create index on history (account);
create unlogged table scratch (v text);
insert into branches select g from generate_series(1, 5) g;
insert into tellers select g, g % 5 + 1 from generate_series(1, 50) g;
insert into accounts select g, g % 5 + 1, 0, repeat(md5(g::text), 8) from generate_series(1, 20000) g;
create procedure work(n int) language plpgsql as $$
declare a int; b int; d int;
begin
	for i in 1..n loop
		a := 1 + floor(random() * 20000); b := 1 + floor(random() * 5); d := floor(random() * 1000) - 500;
		update accounts set balance = balance + d where id = a;
		update tellers set balance = balance + d where id = 1 + a % 50;
		update branches set balance = balance + d where id = b;
		insert into history (account, delta) values (a, d);
		if i % 50 = 0 then insert into scratch values (repeat('x', 100)); end if;
		commit;
	end loop;
end $$;`

const churn = `
create table if not exists churned (id int, v text);
truncate churned;
insert into churned select g, repeat(md5(random()::text), 20) from generate_series(1, 3000) g;
delete from churned where id % 3 = 0;
select lo_from_bytea(0, '\xdeadbeef');`

func (w *world) openBank(s *pgserver.Server) {
	w.t.Helper()
	conn := w.connect(s)
	run(w.t, conn, makeBank)
}

// work does n transfers on each of two connections, and what moves whole files.
func (w *world) work(s *pgserver.Server, n int) {
	w.t.Helper()
	conn := w.connect(s)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			c, err := pgx.Connect(w.t.Context(), s.DSN("postgres"))
			if err == nil {
				_, err = c.Exec(w.t.Context(), fmt.Sprintf("call work(%d)", n))
				_ = c.Close(context.WithoutCancel(w.t.Context()))
			}
			if err != nil {
				w.t.Error(err)
			}
		})
	}
	run(w.t, conn, churn)
	run(w.t, conn, "vacuum full churned")
	run(w.t, conn, "drop database if exists passing") // a recovery may have ended between the two
	run(w.t, conn, "create database passing")
	run(w.t, conn, "drop database passing")
	wg.Wait()
}

// checkBank proves that no transfer is there by half.
func checkBank(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	sums := ask(t, conn, `select concat_ws(' ', (select sum(balance) from accounts), (select sum(balance) from tellers),
		(select sum(balance) from branches), (select coalesce(sum(delta), 0) from history))`)
	f := strings.Fields(sums)
	if len(f) != 4 || f[0] != f[1] || f[0] != f[2] || f[0] != f[3] {
		t.Errorf("the sums of accounts, tellers, branches and history are %s", sums)
	}
	if n := ask(t, conn, "select count(*)::text from scratch"); n != "0" {
		t.Errorf("the unlogged table has %s rows", n)
	}
}

// fingerprint is the content of all logged tables, sequences and large objects.
func fingerprint(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `select oid::regclass::text from pg_class where relkind in ('r', 'S') and relpersistence = 'p'
		and relnamespace = 'public'::regnamespace order by 1`)
	must(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	var b strings.Builder
	for _, name := range names {
		if strings.HasSuffix(name, "_seq") {
			fmt.Fprintf(&b, "%s %s\n", name, ask(t, conn, "select last_value::text from "+name))
			continue
		}
		fmt.Fprintf(&b, "%s %s\n", name, ask(t, conn, "select count(*) || ' ' || md5(string_agg(md5(r::text), '' order by r::text)) from "+name+" r"))
	}
	fmt.Fprintf(&b, "large objects %s\n", ask(t, conn, "select count(*) || ' ' || coalesce(md5(string_agg(encode(data, 'hex'), '' order by loid, pageno)), '') from pg_largeobject"))
	fmt.Fprintf(&b, "databases %s\n", ask(t, conn, "select string_agg(datname, ' ' order by datname) from pg_database"))
	return b.String()
}

// dump is what pg_dump says, where there is one: not all builds have it.
func (w *world) dump(s *pgserver.Server) string {
	w.t.Helper()
	if _, err := exec.LookPath(w.in.Bin("pg_dump")); err != nil {
		return ""
	}
	out, err := exec.CommandContext(w.t.Context(), w.in.Bin("pg_dump"), "-h", s.SocketDir(), "-p", fmt.Sprint(s.Port()), "-U", "postgres",
		"--no-unlogged-table-data", "postgres").Output()
	must(w.t, err)
	var lines []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, `\restrict`) && !strings.HasPrefix(line, `\unrestrict`) { // a random word of newer versions
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
