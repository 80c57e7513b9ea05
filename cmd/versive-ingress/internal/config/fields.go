package config

import (
	"cmp"
	"reflect"
)

// A Field describes one setting. Default is for people, and may be empty.
type Field struct {
	Name, Default, Description string
}

// Fields returns the settings in the order of the struct.
func Fields() []Field {
	var list []Field
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Settings]()) {
		list = append(list, Field{f.Tag.Get("env"), cmp.Or(f.Tag.Get("shown"), f.Tag.Get("default")), f.Tag.Get("desc")})
	}
	return list
}
