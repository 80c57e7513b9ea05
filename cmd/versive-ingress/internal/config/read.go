package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/kelseyhightower/envconfig"
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
	var s Settings
	if err := envconfig.Process("", &s); err != nil {
		if parse, ok := errors.AsType[*envconfig.ParseError](err); ok {
			return Settings{}, fmt.Errorf("%s=%q is not %s", parse.KeyName, parse.Value, allowed(parse.TypeName))
		}
		return Settings{}, err
	}
	return s, nil
}

// serviceLink matches what Kubernetes injects for a service named ingress.
var serviceLink = regexp.MustCompile(`^INGRESS_(SERVICE_HOST|SERVICE_PORT.*|PORT.*)$`)

// checkNames refuses INGRESS_ variables that are no settings: a misspelt one
// would be ignored in silence. It removes empty ones from the environment.
func checkNames() error {
	var known []string
	for _, f := range Fields() {
		known = append(known, f.Name)
	}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case !strings.HasPrefix(name, "INGRESS_"), serviceLink.MatchString(name):
		case !slices.Contains(known, name):
			return fmt.Errorf("%s is not a setting; see: versive-ingress serve --help", name)
		case value == "":
			os.Unsetenv(name)
		}
	}
	return nil
}

// allowed says what values a setting of the named type takes.
func allowed(typeName string) string {
	switch typeName {
	case "time.Duration":
		return `a duration such as "90s", "5m" or "48h"`
	case "config.Size":
		return `a size such as "65536", "64KiB" or "8MiB"`
	case "slog.Level":
		return "debug, info, warn or error"
	default:
		return "a whole number"
	}
}
