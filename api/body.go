package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// maxBody bounds a request's body.
const maxBody = 64 << 10

// strictJSON is JSON that refuses what PostgreSQL could not store: bytes that
// are not UTF-8, and NUL. encoding/json would replace the first in silence.
func strictJSON() huma.Format {
	return huma.Format{
		Marshal: func(w io.Writer, v any) error {
			e := json.NewEncoder(w)
			e.SetEscapeHTML(false)
			return e.Encode(v)
		},
		Unmarshal: unmarshalStrict,
	}
}

func unmarshalStrict(data []byte, v any) error {
	if err := checkText(data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		if s, ok := errors.AsType[*json.SyntaxError](err); ok {
			return fmt.Errorf("is not JSON at byte %d", s.Offset)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("ends too early to be JSON")
		}
		return errors.New("does not have the expected form")
	}
	return nil
}

// checkText finds the field that holds a text which cannot be stored.
func checkText(data []byte) error {
	badUTF8 := !utf8.Valid(data)
	if !badUTF8 && !bytes.Contains(data, []byte(`\u0000`)) && bytes.IndexByte(data, 0) < 0 {
		return nil
	}
	var parsed any
	if err := json.Unmarshal(data, &parsed); err != nil {
		if badUTF8 {
			return errors.New("is not UTF-8")
		}
		return nil // the caller's own parse says what is wrong
	}
	field, found := findText(parsed, "", func(s string) bool {
		return strings.ContainsRune(s, 0) || (badUTF8 && strings.ContainsRune(s, utf8.RuneError))
	})
	switch {
	case found:
		return fmt.Errorf("%s%smust be UTF-8 text without NUL", field, fieldMark)
	case badUTF8:
		return errors.New("is not UTF-8")
	default:
		return nil
	}
}

// findText returns the path of the first key or text that is bad.
func findText(v any, path string, bad func(string) bool) (string, bool) {
	switch x := v.(type) {
	case string:
		return path, bad(x)
	case []any:
		for i, item := range x {
			if at, found := findText(item, fmt.Sprintf("%s[%d]", path, i), bad); found {
				return at, true
			}
		}
	case map[string]any:
		for k, item := range x {
			if bad(k) {
				return strings.TrimPrefix(path+".", "."), true
			}
			if at, found := findText(item, strings.TrimPrefix(path+"."+k, "."), bad); found {
				return at, true
			}
		}
	}
	return "", false
}

// decodeStrict reads exactly one JSON value, without unknown fields.
func decodeStrict(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

// unknownField takes the name out of encoding/json's error, which has no type of its own.
func unknownField(err error) (string, bool) {
	name, ok := strings.CutPrefix(err.Error(), "json: unknown field ")
	return strings.Trim(name, `"`), ok
}

// isJSON reports whether a content type is JSON, whatever its parameters.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == "application/json"
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
