package app

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

const maxConfigFile = 1 << 20

// file applies a YAML file; every fault names its line and column.
func (l *loader) file(name string, root reflect.Value) {
	info, err := os.Stat(name)
	if err != nil {
		l.faults.Add("config", "cannot be read: "+err.Error())
		return
	}
	if info.Size() > maxConfigFile {
		l.faults.Add("config", fmt.Sprintf("is %d bytes; at most %d are read", info.Size(), maxConfigFile))
		return
	}
	doc, err := parser.ParseFile(name, 0)
	if err != nil {
		l.faults.Add(name, yamlFault(err))
		return
	}
	for _, d := range doc.Docs {
		if d.Body != nil {
			l.section(name, d.Body, root, "")
		}
	}
}

func yamlFault(err error) string {
	if s, ok := errors.AsType[*yaml.SyntaxError](err); ok && s.Token != nil {
		return fmt.Sprintf("line %d column %d: %s", s.Token.Position.Line, s.Token.Position.Column, s.Message)
	}
	return strings.TrimSpace(err.Error())
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
		key := p.Key.String()
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
			l.value(file, item, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		f.Set(list)
	default:
		text, ok := scalar(n)
		if !ok {
			l.faults.Add(at(file, n, path), "must be a single value")
			return
		}
		l.set(f, text, at(file, n, path))
	}
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
	return fmt.Sprintf("%s:%d:%d: %s", file, p.Line, p.Column, path)
}
