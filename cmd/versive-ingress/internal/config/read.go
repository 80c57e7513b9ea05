package config

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Load reads the settings from the environment and checks them, and the files
// that they name. The error has the variable, its value (never a secret) and what
// is allowed.
func Load() (Settings, error) {
	s, err := Read()
	if err != nil {
		return Settings{}, err
	}
	if err := s.Check(); err != nil {
		return Settings{}, err
	}
	return s, s.CheckFiles()
}

// Read reads the settings from the environment and does not check them. An empty
// variable counts as not set.
func Read() (Settings, error) {
	if err := checkNames(); err != nil {
		return Settings{}, err
	}
	return read(os.Getenv)
}

// Defaults returns the settings of an empty environment.
func Defaults() Settings {
	s, _ := read(func(string) string { return "" })
	return s
}

func read(getenv func(name string) string) (Settings, error) {
	var s Settings
	values := reflect.ValueOf(&s).Elem()
	for i, f := range reflect.VisibleFields(values.Type()) {
		name := f.Tag.Get("env")
		text := cmp.Or(getenv(name), f.Tag.Get("default"))
		if text == "" {
			continue
		}
		if want, ok := parse(text, values.Field(i).Addr().Interface()); !ok {
			return Settings{}, fmt.Errorf("%s=%q is not %s", name, text, want)
		}
	}
	return s, nil
}

// parse sets a setting to the value that text has. If it is not valid, parse returns
// a description of what is allowed.
func parse(text string, setting any) (want string, ok bool) {
	var err error
	switch setting := setting.(type) {
	case *string:
		*setting = text
	case *[]string:
		*setting = strings.Split(text, ",")
	case *int:
		want = "a whole number"
		*setting, err = strconv.Atoi(text)
	case *time.Duration:
		want = `a duration such as "90s", "5m" or "48h"`
		*setting, err = time.ParseDuration(text)
	case *Size:
		want = `a size such as "65536", "64KiB" or "8MiB"`
		*setting, err = ParseSize(text)
	case *slog.Level:
		want = "debug, info, warn or error"
		err = setting.UnmarshalText([]byte(text))
	}
	return want, err == nil
}

// serviceLink matches the variables that Kubernetes injects for a service whose name
// begins with ingress. It does not match INGRESS_NATS_PORT=4222, which may be meant as
// a setting.
var serviceLink = regexp.MustCompile(`^INGRESS_(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT=\w+://|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?=)`)

// checkNames refuses INGRESS_ variables that are no settings: a misspelt one
// would be ignored silently.
func checkNames() error {
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		known := slices.ContainsFunc(Fields(), func(f Field) bool { return f.Name == name })
		if strings.HasPrefix(name, "INGRESS_") && !known && !serviceLink.MatchString(entry) {
			return fmt.Errorf("%s is not a setting; see: versive-ingress serve --help", name)
		}
	}
	return nil
}
