package publish

import (
	"net/url"
	"strings"
)

// Addresses returns a comma-separated list of broker URLs as it may be shown:
// without the credentials in them. A token stands where a user's name does.
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
