package api_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// schema is as much of JSON Schema as the description uses.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       any               `json:"type"` // a name, or several
	Format     string            `json:"format"`
	Enum       []any             `json:"enum"`
	MaxLength  int               `json:"maxLength"`
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
	Items      *schema           `json:"items"`
}

type operation struct {
	method, path string
	ID           string `json:"operationId"`
	Parameters   []struct {
		Name, In string
		Required bool
		Schema   schema
	}
	RequestBody *struct {
		Required bool
		Content  map[string]struct{ Schema schema }
	} `json:"requestBody"`
	Responses map[string]json.RawMessage
	Security  []map[string][]string
}

// people reports whether an operation is for somebody who is signed in.
func (op operation) people() bool {
	return slices.ContainsFunc(op.Security, func(s map[string][]string) bool { _, is := s["cookie"]; return is })
}

// described is the API as it describes itself.
type described struct {
	ops     []operation
	schemas map[string]schema
}

func (w *world) described() described {
	w.tb.Helper()
	raw, err := w.api.OpenAPI()
	must(w.tb, err)
	var doc struct {
		Paths      map[string]map[string]operation
		Components struct{ Schemas map[string]schema }
	}
	must(w.tb, json.Unmarshal(raw, &doc))
	d := described{schemas: doc.Components.Schemas}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			op := doc.Paths[path][method]
			op.method, op.path = strings.ToUpper(method), path
			d.ops = append(d.ops, op)
		}
	}
	return d
}

// methods are those of a path.
func (d described) methods(path string) []string {
	var m []string
	for _, op := range d.ops {
		if op.path == path {
			m = append(m, op.method)
		}
	}
	return m
}

func (d described) resolve(s schema) schema {
	for s.Ref != "" {
		s = d.schemas[s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]]
	}
	return s
}

func (s schema) is(kind string) bool {
	if several, ok := s.Type.([]any); ok {
		return slices.Contains(several, any(kind))
	}
	return s.Type == kind
}

// body is the schema of what an operation takes.
func (d described) body(op operation) (schema, bool) {
	if op.RequestBody == nil {
		return schema{}, false
	}
	return d.resolve(op.RequestBody.Content["application/json"].Schema), true
}

// valid is a value that a schema allows.
func (d described) valid(name string, s schema) any {
	s = d.resolve(s)
	switch {
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.is("object"):
		o := object{}
		for k, p := range s.Properties {
			o[k] = d.valid(k, p)
		}
		return o
	case s.is("array"):
		return []any{d.valid(name, *s.Items)}
	case s.is("integer"), s.is("number"):
		return 7
	case s.is("boolean"):
		return true
	case s.Format == "uuid":
		return uuid.NewString()
	case s.Format == "date-time":
		return "2030-01-02T03:04:05Z"
	case name == "ip":
		return "192.0.2.1"
	default:
		return "text"
	}
}

// url is a path of an operation with parameters that are fine, of things that are not there.
func (op operation) url(replace ...string) string {
	path := op.path
	for i := 0; i < len(replace); i += 2 {
		path = strings.ReplaceAll(path, "{"+replace[i]+"}", replace[i+1])
	}
	for strings.Contains(path, "{") {
		from := strings.IndexByte(path, '{')
		path = path[:from] + uuid.NewString() + path[from+strings.IndexByte(path[from:], '}')+1:]
	}
	var query []string
	for _, p := range op.Parameters {
		if p.In == "query" && p.Required {
			value := "user"
			switch {
			case len(p.Schema.Enum) > 0:
				value = p.Schema.Enum[0].(string)
			case p.Schema.Format == "uuid":
				value = uuid.NewString()
			}
			query = append(query, p.Name+"="+value)
		}
	}
	if len(query) == 0 {
		return path
	}
	return path + "?" + strings.Join(query, "&")
}

func TestDescriptionIsComplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.described()
	seen := map[string]bool{}
	for _, op := range d.ops {
		if op.ID == "" || seen[op.ID] {
			t.Errorf("%s %s has no operation id of its own: %q", op.method, op.path, op.ID)
		}
		seen[op.ID] = true
		success := 0
		for status := range op.Responses {
			if status[0] == '2' {
				success++
			}
		}
		if success != 1 || len(op.Responses) < 2 {
			t.Errorf("%s describes %d ways to succeed and %d answers", op.ID, success, len(op.Responses))
		}
		for _, p := range op.Parameters {
			if !strings.Contains(op.path, "{"+p.Name+"}") && p.In == "path" {
				t.Errorf("%s: the path has no %s", op.ID, p.Name)
			}
		}
		// What is described is there: no method of a path is unknown.
		if a := w.do(op.method, op.url(), nil); a.status == 404 && strings.Contains(string(a.body), `"not_found"`) || a.status == 405 {
			t.Errorf("%s is not there: %d", op.ID, a.status)
		}
	}
	if len(d.ops) < 60 {
		t.Errorf("only %d operations", len(d.ops))
	}
}
