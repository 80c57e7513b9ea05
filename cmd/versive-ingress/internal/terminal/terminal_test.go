package terminal

import "testing"

func TestURL(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://host:8443/a/b":               "https://host:8443/a/b",
		"https://user:hunter2@host/a?token=x": "https://host/a",
		"http://host#hunter2":                 "http://host",
		"http://host/%zz?token=hunter2":       "",
	} {
		if got := URL(address); got != want {
			t.Errorf("%s is shown as %q, want %q", address, got, want)
		}
	}
}
