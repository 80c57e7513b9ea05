package terminal

import (
	"fmt"
	"time"
)

// ParseTime returns the time that is a flag's value, or the zero time for "".
func ParseTime(flag, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(value); err == nil && ago > 0 {
		return time.Now().Add(-ago).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return t, fmt.Errorf("--%s %q: want a time such as 2024-01-31T08:00:00Z, or how long ago, such as 2h", flag, value)
	}
	return t.UTC(), nil
}
