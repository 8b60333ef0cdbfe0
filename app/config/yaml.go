package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

const maxConfigFile = 1 << 20

// file applies a YAML file; every fault names its line and column.
func (l *loader) file(name string, root reflect.Value) {
	text, err := ReadSmall(name, maxConfigFile)
	if err != nil {
		l.faults.Add(name, err.Error())
		return
	}
	doc, fault := parse(text)
	switch {
	case fault != nil:
		l.faults.Add(fmt.Sprintf("%s:%d:%d:", name, fault.line, fault.column), fault.message)
	case len(doc.Docs) > 1:
		l.faults.Add(name, "holds more than one document")
	case len(doc.Docs) == 1 && doc.Docs[0].Body != nil:
		l.section(name, doc.Docs[0].Body, root, "")
		l.anchor(name, root)
	}
}

// anchor makes names of files that are relative relative to the configuration file's folder.
func (l *loader) anchor(file string, root reflect.Value) {
	for _, key := range []string{"http.tls_cert", "http.tls_key", "keys.master_key_file", "mail.dir", "session.geoip_file", "backup.key_file", "backup.passphrase_file", "backup.pgdata", "backup.spool", "backup.s3.credentials_file"} {
		f, ok := fieldAt(root, key)
		if ok && f.String() != "" && !filepath.IsAbs(f.String()) && strings.HasPrefix(l.from[key], file+":") {
			f.SetString(filepath.Join(filepath.Dir(file), f.String()))
		}
	}
}

// syntaxFault is a place in a file that cannot be read, and why.
type syntaxFault struct {
	line, column int
	message      string
}

// maxYAMLDepth is more than any setting needs: the parser calls itself for every level.
const maxYAMLDepth = 32

// parse reads YAML of a sensible form.
func parse(text string) (*ast.File, *syntaxFault) {
	if !utf8.ValidString(text) {
		return nil, &syntaxFault{1, 1, "the file is not UTF-8"}
	}
	text = strings.TrimPrefix(text, "\ufeff")
	if line := tooDeep(text); line > 0 {
		return nil, &syntaxFault{line, 1, fmt.Sprintf("nested more than %d levels deep", maxYAMLDepth)}
	}
	doc, err := parser.ParseBytes([]byte(text), 0)
	if err == nil {
		return doc, nil
	}
	if s, ok := errors.AsType[*yaml.SyntaxError](err); ok && s.Token != nil {
		return nil, &syntaxFault{s.Token.Position.Line, s.Token.Position.Column, s.Message}
	}
	return nil, &syntaxFault{1, 1, strings.TrimSpace(err.Error())}
}

// tooDeep returns the line in which brackets or indentation go deeper than in any configuration, or 0.
func tooDeep(text string) int {
	number, open := 0, 0
	for line := range strings.Lines(text) {
		number++
		indent := len(line) - len(strings.TrimLeft(line, " \t-?:"))
		open += strings.Count(line, "[") + strings.Count(line, "{")
		if indent > 4*maxYAMLDepth || open > maxYAMLDepth {
			return number
		}
		open = max(0, open-strings.Count(line, "]")-strings.Count(line, "}"))
	}
	return 0
}

// section applies a mapping to a struct.
func (l *loader) section(file string, n ast.Node, v reflect.Value, path string) {
	var pairs []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	case *ast.NullNode, *ast.CommentGroupNode:
		return
	default:
		l.faults.Add(at(file, n, path), errNotMapping.Error())
		return
	}
	seen := map[string]bool{}
	for _, p := range pairs {
		key := keyName(p.Key)
		where := strings.TrimPrefix(path+"."+key, ".")
		if seen[key] {
			l.faults.Add(at(file, p.Key, where), "is set twice")
			continue
		}
		seen[key] = true
		f, ok := fieldAt(v, key)
		if !ok || strings.Contains(key, ".") {
			l.faults.Add(at(file, p.Key, where), "is not a setting: see rootstream config explain")
			continue
		}
		l.value(file, p.Value, f, where)
	}
}

// value applies one YAML value to a field.
func (l *loader) value(file string, n ast.Node, f reflect.Value, path string) {
	if _, empty := n.(*ast.NullNode); empty {
		return
	}
	switch {
	case f.Kind() == reflect.Struct && !isText(f):
		l.section(file, n, f, path)
	case f.Kind() == reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			l.faults.Add(at(file, n, path), "must be a list")
			return
		}
		list := reflect.MakeSlice(f.Type(), len(seq.Values), len(seq.Values))
		for i, item := range seq.Values {
			element := fmt.Sprintf("%s[%d]", path, i)
			l.from[element] = at(file, item, element)
			l.value(file, item, list.Index(i), element)
		}
		f.Set(list)
	default:
		text, ok := scalar(n)
		if !ok {
			l.faults.Add(at(file, n, path), "must be a single value")
			return
		}
		l.from[path] = at(file, n, path)
		l.set(f, text, l.from[path])
	}
}

// keyName returns a key without its quotes.
func keyName(k ast.MapKeyNode) string {
	if s, ok := k.(*ast.StringNode); ok {
		return s.Value
	}
	return k.String()
}

// scalar returns a scalar's text as it was written, without quotes.
func scalar(n ast.Node) (string, bool) {
	switch s := n.(type) {
	case *ast.StringNode:
		return s.Value, true
	case *ast.LiteralNode:
		return s.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	default:
		return "", false
	}
}

func at(file string, n ast.Node, path string) string {
	p := n.GetToken().Position
	return strings.TrimSuffix(fmt.Sprintf("%s:%d:%d: %s", file, p.Line, p.Column, path), " ")
}
