package api_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"rootstream/user"
)

// marker stands in every bad value, so that an answer that repeats one is seen.
const marker = "hunter2-marker"

// fault is one thing that is wrong with a request, and what must be said about it.
type fault struct {
	name   string
	body   any
	tunes  []tune
	status int
	field  string // "" where no field is to blame
}

// lenient operations are plain handlers for probes and proxies, which may add to a query.
var lenient = []string{"healthz", "readyz", "openapi", "metrics", "forward-auth"}

func TestBadInputIsNamedAndNothingIsWritten(t *testing.T) { //nolint:tparallel // what is written is looked for after each
	t.Parallel()
	w := newWorld(t)
	d := w.described()
	admin := w.actor("root", user.RoleAdmin, 2, false)
	// Activity that is noted late would look like something written.
	w.do("GET", "/v1/users/me", nil, as(admin.token)).want(200)
	n := 0
	for _, op := range d.ops {
		t.Run(op.ID, func(t *testing.T) {
			here := *w
			here.tb = t
			before := here.contents()
			for _, f := range slices.Concat(d.badBodies(op), badQueries(op)) {
				path := op.url()
				if q, ok := f.body.(query); ok {
					path, f.body = strings.Split(path, "?")[0]+"?"+string(q), nil
					if body, takes := d.body(op); takes {
						f.body = d.valid("", body)
					}
				}
				here.refuses(f, op.method, path, admin.token)
				n++
			}
			for _, path := range badPaths(op) {
				var body any
				if s, takes := d.body(op); takes {
					body = d.valid("", s)
				}
				a := here.do(op.method, path, body, as(admin.token))
				if a.status != 404 && a.status != 422 || a.status == 422 && len(a.fields()) == 0 {
					t.Errorf("%s: %d %s", a.what, a.status, a.body)
				}
				n++
			}
			after := here.contents()
			for table := range before {
				if before[table] != after[table] {
					t.Errorf("table %s was written to", table)
				}
			}
		})
	}
	if n < 1500 {
		t.Errorf("only %d bad requests were made", n)
	}
}

// refuses sends one bad request and checks what is said about it.
func (w *world) refuses(f fault, method, path, token string) {
	w.tb.Helper()
	a := w.do(method, path, f.body, append([]tune{as(token)}, f.tunes...)...)
	var p struct {
		Type, Title, Code, Detail string
		Status                    int
		RequestID                 string `json:"request_id"`
		Errors                    []struct{ Field, Message string }
	}
	err := json.Unmarshal(a.body, &p)
	switch {
	case a.status != f.status:
		w.tb.Errorf("%s, %s: %d, want %d: %s", f.name, a.what, a.status, f.status, a.body)
	case err != nil || a.header.Get("Content-Type") != "application/problem+json" || p.Code == "" || p.RequestID == "" || p.Status != a.status || p.Detail == "":
		w.tb.Errorf("%s, %s: no whole problem: %v %s", f.name, a.what, err, a.body)
	case f.field != "" && !slices.ContainsFunc(p.Errors, func(e struct{ Field, Message string }) bool { return e.Field == f.field && e.Message != "" }):
		w.tb.Errorf("%s, %s: does not name %s: %s", f.name, a.what, f.field, a.body)
	case bytes.Contains(a.body, []byte(marker)):
		w.tb.Errorf("%s, %s: repeats what was sent: %s", f.name, a.what, a.body)
	}
}

// contents is what each table holds, but for what passes with time.
func (w *world) contents() map[string]string {
	w.tb.Helper()
	ctx := w.tb.Context()
	rows, err := w.db.Query(ctx, `select tablename from pg_tables where schemaname = 'public'`)
	must(w.tb, err)
	var tables []string
	for rows.Next() {
		var name string
		must(w.tb, rows.Scan(&name))
		tables = append(tables, name)
	}
	must(w.tb, rows.Err())
	contents := map[string]string{}
	for _, table := range tables {
		row := "t::text"
		if table == "sessions" {
			row = "(to_jsonb(t) - 'last_activity')::text"
		}
		var sum string
		err := w.db.QueryRow(ctx, `select count(*) || ':' || coalesce(md5(string_agg(`+row+`, '|' order by `+row+`)), '') from `+table+` t`).Scan(&sum)
		must(w.tb, err)
		contents[table] = sum
	}
	return contents
}

type query string

// badQueries are faults in the query; their body is the query.
func badQueries(op operation) []fault {
	if slices.Contains(lenient, op.ID) {
		return nil
	}
	_, rest, _ := strings.Cut(op.url(), "?")
	also := func(q string) query { return query(strings.Trim(rest+"&"+q, "&")) }
	faults := []fault{
		{"unknown parameter", also("no_such=" + marker), nil, 422, "no_such"},
		{"malformed query", also("a=%zz"), nil, 400, ""},
		{"semicolons", also("a=1;b=2"), nil, 400, ""},
		{"broken name", also("%ff=1"), nil, 422, "query"},
	}
	for _, p := range op.Parameters {
		if p.In != "query" {
			continue
		}
		without := slices.DeleteFunc(strings.Split(rest, "&"), func(kv string) bool { return kv == "" || strings.HasPrefix(kv, p.Name+"=") })
		set := func(values ...string) query {
			q := slices.Clone(without)
			for _, v := range values {
				q = append(q, p.Name+"="+v)
			}
			return query(strings.Join(q, "&"))
		}
		add := func(name string, values ...string) {
			faults = append(faults, fault{p.Name + ": " + name, set(values...), nil, 422, p.Name})
		}
		add("NUL", "a%00b")
		add("not UTF-8", "%ff%fe")
		add("given twice", "1", "1")
		switch {
		case p.Schema.is("integer"):
			add("text", marker)
			add("too large", "99999999999999999999")
			add("negative", "-1")
			add("a fraction", "1.5")
		case p.Schema.is("boolean"), len(p.Schema.Enum) > 0:
			add("none of its values", marker)
		case p.Schema.Format == "uuid":
			add("no id", marker)
		case p.Schema.MaxLength > 0:
			add("too long", strings.Repeat("x", p.Schema.MaxLength+1))
		}
		if p.Name == "cursor" {
			add("made up", marker)
		}
		if p.Required {
			add("missing")
		}
	}
	return faults
}

func badPaths(op operation) []string {
	var paths []string
	for _, p := range op.Parameters {
		if p.In != "path" {
			continue
		}
		for _, bad := range []string{"7", "not-a-uuid", "'%20or%201=1%20--", "%00", "%ff", strings.Repeat("f", 5000), "00000000-0000-0000-0000-00000000000g", "..", "%2e%2e%2f"} {
			paths = append(paths, op.url(p.Name, bad))
		}
	}
	return paths
}

// badBodies are faults in the body and in how it is sent.
func (d described) badBodies(op operation) []fault {
	s, takes := d.body(op)
	if !takes {
		return nil
	}
	valid := d.valid("", s).(object)
	text, _ := json.Marshal(valid)
	whole := string(text)
	faults := []fault{
		{"cut off", whole[:len(whole)-1], nil, 400, "body"},
		{"no JSON", "nope " + marker, nil, 400, "body"},
		{"single quotes", "{'a':'" + marker + "'}", nil, 400, "body"},
		{"what follows", whole + " " + marker, nil, 400, "body"},
		{"two values", whole + whole, nil, 400, "body"},
		{"NUL behind it", whole + "\x00", nil, 400, "body"},
		{"not UTF-8 behind it", whole + "\xff", nil, 400, "body"},
		{"a byte order mark", "\ufeff" + whole, nil, 400, "body"},
		{"an array", "[" + whole + "]", nil, 422, "body"},
		{"a text", `"` + marker + `"`, nil, 422, "body"},
		{"a number", "7", nil, 422, "body"},
		{"null", "null", nil, 422, "body"},
		{"deep nesting", `{"a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, nil, 400, ""},
		{"1 MB", change(valid, "no_such_field", strings.Repeat("x", 1<<20)), nil, 413, ""},
		{"1 MB of unknown length", streamed(`{"a":"` + strings.Repeat("x", 1<<20) + `"}`), nil, 413, ""},
		{"compressed", zipped(whole), []tune{withHeader("Content-Encoding", "gzip")}, 415, ""},
	}
	if op.ID != "patch-state" { // which takes any field
		faults = append(faults, fault{"unknown field", change(valid, "no_such_field", marker), nil, 422, "no_such_field"},
			fault{"a prototype", change(valid, "__proto__", object{"a": marker}), nil, 422, "__proto__"})
	}
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=latin1", "application/jsonx", "garbage", ""} {
		faults = append(faults, fault{"content type " + kind, whole, []tune{withHeader("Content-Type", kind)}, 415, ""})
	}
	if op.RequestBody.Required {
		faults = append(faults, fault{"no body", "", nil, 400, ""})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		faults = append(faults, d.badField(valid, s, name)...)
	}
	return faults
}

// badField are faults in one field.
func (d described) badField(valid object, s schema, name string) []fault {
	p := d.resolve(s.Properties[name])
	text, _ := json.Marshal(valid[name])
	twice := fmt.Sprintf(`{%q:%s,%q:%s}`, name, text, name, text)
	faults := []fault{
		{name + " twice", twice, nil, 400, name},
		{name + " in capitals", change(without(valid, name), strings.ToUpper(name), valid[name]), nil, 422, strings.ToUpper(name)},
		{name + " an object", change(valid, name, object{"a": marker}), nil, 422, name},
		{name + " beyond any number", raw(valid, name, "1e400"), nil, 422, name},
	}
	if slices.Contains(s.Required, name) {
		faults = append(faults, fault{name + " missing", without(valid, name), nil, 422, name},
			fault{name + " null", change(valid, name, nil), nil, 422, name})
	}
	switch {
	case p.is("string"):
		faults = append(faults,
			fault{name + " a number", change(valid, name, 7), nil, 422, name},
			fault{name + " a list", change(valid, name, []string{marker}), nil, 422, name},
			fault{name + " with NUL", raw(valid, name, `"`+marker+`\u0000"`), nil, 422, name},
			fault{name + " with a raw NUL", raw(valid, name, "\""+marker+"\x00\""), nil, 400, "body"},
			fault{name + " with a raw line", raw(valid, name, "\""+marker+"\n\""), nil, 400, "body"},
			fault{name + " not UTF-8", raw(valid, name, "\""+marker+"\xc3\x28\""), nil, 400, name},
			fault{name + " overlong UTF-8", raw(valid, name, "\""+marker+"\xc0\xaf\""), nil, 400, name})
		if p.MaxLength > 0 {
			faults = append(faults, fault{name + " too long", change(valid, name, strings.Repeat("é", p.MaxLength+1)), nil, 422, name})
		}
		if len(p.Enum) > 0 || p.Format != "" {
			faults = append(faults, fault{name + " none of its values", change(valid, name, marker), nil, 422, name})
		}
	case p.is("integer"):
		faults = append(faults,
			fault{name + " a text", change(valid, name, marker), nil, 422, name},
			fault{name + " a fraction", raw(valid, name, "1.5"), nil, 422, name},
			fault{name + " too large", raw(valid, name, "9223372036854775808"), nil, 422, name},
			fault{name + " far too large", raw(valid, name, "1e30"), nil, 422, name})
	case p.is("boolean"):
		faults = append(faults, fault{name + " a text", change(valid, name, "true"), nil, 422, name},
			fault{name + " a number", change(valid, name, 1), nil, 422, name})
	case p.is("array"):
		faults = append(faults, fault{name + " a text", change(valid, name, marker), nil, 422, name},
			fault{name + " of numbers", change(valid, name, []int{1}), nil, 422, name + "[0]"})
	}
	return faults
}

func change(o object, name string, value any) object {
	c := maps.Clone(o)
	c[name] = value
	return c
}

func without(o object, name string) object {
	c := maps.Clone(o)
	delete(c, name)
	return c
}

// raw puts text that need not be JSON in the place of a value.
func raw(o object, name, text string) string {
	b, _ := json.Marshal(change(o, name, "PLACE"))
	return strings.Replace(string(b), `"PLACE"`, text, 1)
}

func zipped(s string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return b.Bytes()
}

// streamed hides how long a body is.
func streamed(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }

func TestWrongMethodsSayWhichAreRight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := w.actor("root", user.RoleAdmin, 2, false)
	d := w.described()
	before := w.contents()
	for _, op := range d.ops {
		if op.ID == "forward-auth" { // takes any
			continue
		}
		right := d.methods(op.path)
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} {
			if slices.Contains(right, method) || strings.HasPrefix(op.ID, "validate-session") && slices.Contains(d.methods("/v1/sessions/{id}"), method) {
				continue // the other is a path with an id
			}
			a := w.do(method, strings.Split(op.url(), "?")[0], nil, as(admin.token)).problem(405, "method_not_allowed")
			for _, m := range right {
				if !strings.Contains(a.header.Get("Allow"), m) {
					t.Errorf("%s: Allow is %q", a.what, a.header.Get("Allow"))
				}
			}
		}
	}
	for table, sum := range w.contents() {
		if before[table] != sum {
			t.Errorf("table %s was written to", table)
		}
	}
}

// hostile texts are legal, and must mean nothing to anything they pass.
var hostile = []string{
	`'; DROP TABLE users; --`, `" OR ""="`, `\`, `%_%`, `$1 || pg_sleep(10)`, `${jndi:ldap://x}`, `{{.}}`, "../../../etc/passwd",
	"a\r\nSet-Cookie: x=y", "<script>alert(1)</script>", "\u202eevil", "\uffff", "\ufeff", "👩‍💻", strings.Repeat("\u0301", 50), "-1", "null", "",
	strings.Repeat("x", 60000),
}

// Nothing is thrown off by texts that mean something elsewhere. What is taken, is kept as it was sent.
func TestHostileTextsAreTexts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	d := w.described()
	admin := w.actor("root", user.RoleAdmin, 2, false)
	own := w.do("POST", "/v1/streams", object{"name": "s"}, as(admin.token)).want(201).text("id")
	other := w.session(admin.user, 2, false)
	for _, op := range d.ops {
		id := own
		if strings.Contains(op.path, "/sessions/{id}") {
			id = other.id.String()
		} else if strings.Contains(op.path, "/users/{id}") {
			id = admin.user.PublicID.String()
		}
		if op.ID == "reauthenticate" || op.ID == "logout" {
			continue // they would end the session of this test: see below
		}
		if s, takes := d.body(op); takes {
			valid := d.valid("", s).(object)
			for name, p := range s.Properties {
				if !d.resolve(p).is("string") {
					continue
				}
				for _, text := range append(hostile, "\\ud800") {
					a := w.do(op.method, op.url("id", id), raw(valid, name, quoted(text)), as(admin.token))
					if a.status >= 500 {
						t.Errorf("%s with %s %.30q: %d %s", a.what, name, text, a.status, a.body)
					}
					if v, is := kept(a, name); is && v != text && strings.TrimSpace(text) == text && text != "\\ud800" && name != "email" {
						t.Errorf("%s: %s %q is kept as %q", a.what, name, text, v)
					}
				}
			}
		}
		for _, p := range op.Parameters {
			if p.In != "query" || op.method != "GET" {
				continue
			}
			for _, text := range hostile {
				q := url.Values{p.Name: {text[:min(len(text), 5000)]}}.Encode()
				a := w.do(op.method, strings.Split(op.url("id", id), "?")[0]+"?"+q, nil, as(admin.token))
				if a.status >= 500 {
					t.Errorf("%s: %d %s", a.what, a.status, a.body)
				}
			}
		}
	}
	for _, text := range hostile {
		for _, field := range []string{"password", "code"} {
			a := w.do("POST", "/v1/auth/reauthenticate", object{field: text}, as(admin.token))
			if a.status >= 500 {
				t.Errorf("%s with %s %.30q: %d %s", a.what, field, text, a.status, a.body)
			}
		}
	}
	w.do("GET", "/v1/users/me", nil, as(admin.token)).want(200)
}

func quoted(text string) string {
	if text == "\\ud800" {
		return `"` + text + `"`
	}
	b, _ := json.Marshal(text)
	return string(b)
}

// kept is the value of a field that was taken, if the answer shows it.
func kept(a answer, name string) (string, bool) {
	if a.status >= 300 || len(a.body) == 0 {
		return "", false
	}
	v, is := a.json()[name].(string)
	return v, is
}

// patient limits nobody, so that many requests reach what is behind the limits.
func patient(o *option) {
	r := &o.auth.Rate
	for _, n := range []*int{
		&r.LoginAccount, &r.LoginAnywhere, &r.LoginNetwork, &r.RegisterNetwork, &r.MFANetwork, &r.RefreshNetwork, &r.TokenNetwork,
		&r.RecoveryNetwork, &r.RecoveryAccount, &r.ProofAccount, &r.ExportAccount, &r.Writes, &r.FreeClient, &r.FreeAccount,
	} {
		*n = 1 << 20
	}
	o.session.MaxSessions = 1000
}

func TestHostileHeadersAreHarmless(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	for _, text := range []string{"\xff\xfe", "é", "a;b=c,d", `"quoted"`, strings.Repeat("x", 10000), "\t", "👩‍💻", "' or 1=1 --"} {
		a := w.do("POST", "/v1/auth/login", object{"login": "ada", "password": password}, withHeader("X-Device-Id", text), withHeader("User-Agent", text),
			func(r *http.Request) {
				r.Header["Cookie"] = []string{"rootstream=" + text, text, "rootstream-device=" + text}
			})
		if a.status >= 500 {
			t.Errorf("%q: %d %s", text, a.status, a.body)
		}
		for _, name := range []string{"Authorization", "Cookie", "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id", "Accept", "Origin", "Content-Type", "If-Match", "Range"} {
			if a := w.do("GET", "/v1/users/me", nil, withHeader(name, text)); a.status != 401 {
				t.Errorf("%s %q: %d %s", name, text, a.status, a.body)
			}
		}
	}
}

func TestHostileCursors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := w.actor("root", user.RoleAdmin, 2, false)
	own := w.do("POST", "/v1/streams", object{"name": "s"}, as(admin.token)).want(201).text("id")
	for _, op := range w.described().ops {
		for _, p := range op.Parameters {
			if p.Name != "cursor" {
				continue
			}
			for _, raw := range []string{
				"0.0", "1.1", "-1.0", "9223372036854775807.0", "-9223372036854775808.0", "9223372036854775807.9223372036854775807",
				"1.-1", "1", "9223372036854775807", "-9223372036854775808", ".", "\x01" + strings.Repeat("\xff", 16), "\x01", "\x00\x00\x00",
			} {
				id := own
				if strings.Contains(op.path, "/users/{id}") {
					id = admin.user.PublicID.String()
				}
				a := w.do(op.method, op.url("id", id)+"?cursor="+base64.RawURLEncoding.EncodeToString([]byte(raw)), nil, as(admin.token))
				if a.status != 200 && a.status != 422 {
					t.Errorf("%s (%q): %d %s", a.what, raw, a.status, a.body)
				}
			}
		}
	}
}
