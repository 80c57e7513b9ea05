package main

import "reflect"

// field is one setting, for the table of them.
type field struct {
	name, fallback, about string
}

// fields returns the settings in the order of the struct.
func fields() []field {
	var list []field
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Settings]()) {
		fallback := f.Tag.Get("shown")
		if fallback == "" {
			fallback = f.Tag.Get("default")
		}
		list = append(list, field{f.Tag.Get("envconfig"), fallback, f.Tag.Get("desc")})
	}
	return list
}
