package api

import (
	"path"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// schemaName names a type in the description of the API after its room, so
// that two rooms may each have an Export: UserExport, AuthExport, but User.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	room := path.Base(t.PkgPath())
	if !strings.HasPrefix(t.PkgPath(), "rootstream/") || room == "api" || t.Name() == "" {
		return name
	}
	room = strings.ToUpper(room[:1]) + room[1:]
	if strings.HasPrefix(name, room) {
		return name
	}
	return room + name
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
