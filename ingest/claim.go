package ingest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"versive-ingress/schema"
)

// A claim is what a request's headers say of it, until verify proves it.
//
// header holds the three headers of one family and nothing else, so the id
// that is used and the id that is verified cannot be two different ones.
type claim struct {
	id     string
	header http.Header
	names  family
}

// A family is a set of headers that sign a request, in canonical form.
type family struct{ id, timestamp, signature string }

// The svix library takes the first family only if it is complete, and so do
// we: https://github.com/svix/svix-webhooks/blob/v1.90.0/go/webhook.go
var families = [...]family{
	{"Svix-Id", "Svix-Timestamp", "Svix-Signature"},
	{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
}

// maxSignature bounds the signature header, in bytes. While secrets rotate it
// holds two signatures of 47 bytes each.
const maxSignature = 4 << 10

// readClaim finds the family of headers that a request is signed with.
func readClaim(header http.Header) (claim, error) {
	for _, f := range families {
		if header.Get(f.id) == "" || header.Get(f.timestamp) == "" || header.Get(f.signature) == "" {
			continue
		}
		c := claim{id: header.Get(f.id), header: make(http.Header, 3), names: f}
		for _, name := range [...]string{f.id, f.timestamp, f.signature} {
			if len(header[name]) > 1 {
				return claim{}, badRequest.because("repeated_header").telling("header " + name + " is there more than once")
			}
			c.header[name] = header[name]
		}
		switch {
		case !schema.ValidID(c.id):
			return claim{}, badRequest.because("id").telling(fmt.Sprintf("header %s is not 1 to %d printable ASCII characters without spaces", f.id, schema.MaxSvixIDLen))
		case isAmbiguous(c.id):
			return claim{}, badRequest.because("id").telling("header " + f.id + " has a number between dots, where the signed text has the timestamp")
		case len(header.Get(f.signature)) > maxSignature:
			return claim{}, badRequest.because("signature_length").telling(fmt.Sprintf("header %s is longer than %d bytes", f.signature, maxSignature))
		}
		return c, nil
	}
	return claim{}, unauthorized.because("missing_header")
}

// isAmbiguous reports whether id has a part after a dot that reads as a
// timestamp. The signed text is "id.timestamp.body" and nothing in it marks
// where the id ends: from one signed request with the id "a" somebody could
// make another, validly signed, with the id "a.1700000000" and the rest of the
// body. Ids of the sender have no dots.
func isAmbiguous(id string) bool {
	parts := strings.Split(id, ".")
	return slices.ContainsFunc(parts[1:], func(part string) bool {
		return part != "" && strings.Trim(part, "+-0123456789") == ""
	})
}

func (c claim) checkTimestamp(now time.Time, tolerance time.Duration) error {
	seconds, err := strconv.ParseInt(c.header.Get(c.names.timestamp), 10, 64)
	switch {
	case err != nil:
		return unauthorized.because("timestamp_malformed")
	case seconds < now.Add(-tolerance).Unix():
		return unauthorized.because("timestamp_too_old")
	case seconds > now.Add(tolerance).Unix():
		return unauthorized.because("timestamp_too_new")
	}
	return nil
}

// maxContentType bounds what is kept of the content type, in bytes.
const maxContentType = 256

// origin returns the headers that are kept with a quarantined body: the
// verified ones, and the content type to read it by.
func (c claim) origin(header http.Header) http.Header {
	kept := c.header.Clone()
	if contentType := header.Get("Content-Type"); contentType != "" {
		kept.Set("Content-Type", contentType[:min(len(contentType), maxContentType)])
	}
	return kept
}
