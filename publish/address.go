package publish

import (
	"net/url"
	"strings"
)

// Addresses returns a comma-separated list of broker URLs without credentials, for
// display. An entry that cannot be parsed becomes "(not a URL)".
func Addresses(list string) string {
	urls := strings.Split(list, ",")
	for i, address := range urls {
		address = strings.TrimSpace(address)
		if !strings.Contains(address, "://") { // as nats.go reads it
			address = "nats://" + address
		}
		urls[i] = "(not a URL)"
		if u, err := url.Parse(address); err == nil {
			urls[i] = u.Scheme + "://" + u.Host
		}
	}
	return strings.Join(urls, ",")
}
