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

// A claim is the identity that a request's headers state. It is taken through
// three steps: readClaim selects one header set and checks its form,
// checkTimestamp that it is recent, and after the body has arrived
// keyring.verify that one of the secrets signed id, timestamp and body. Until
// then nothing is known, and the id is used for nothing.
//
// header holds the three headers of that set and nothing else, so that the id
// that is verified is the id that is used. A claim belongs to its request's
// goroutine and is not changed.
type claim struct {
	id, timestamp string
	header        http.Header
}

// A headerSet has the names of the three headers that sign a request, in
// canonical form.
type headerSet struct{ id, timestamp, signature string }

// headerSets are in order of preference. The first complete set is used, as the
// svix library does:
// https://github.com/svix/svix-webhooks/blob/v1.90.0/go/webhook.go
var headerSets = [...]headerSet{
	{"Svix-Id", "Svix-Timestamp", "Svix-Signature"},
	{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
}

// maxSignature bounds the signature header, in bytes. During a rotation of
// secrets it holds two signatures of 47 bytes each.
const maxSignature = 4 << 10

// readClaim reads the claim from the header set that a request is signed with.
func readClaim(header http.Header) (claim, error) {
	for _, set := range headerSets {
		if header.Get(set.id) == "" || header.Get(set.timestamp) == "" || header.Get(set.signature) == "" {
			continue
		}
		c := claim{id: header.Get(set.id), timestamp: header.Get(set.timestamp), header: make(http.Header, 3)}
		for _, name := range [...]string{set.id, set.timestamp, set.signature} {
			if len(header[name]) > 1 {
				return claim{}, reject(badRequest, "repeated_header").withDetail("header " + name + " occurs more than once")
			}
			c.header[name] = header[name]
		}
		switch {
		case !schema.ValidID(c.id):
			return claim{}, reject(badRequest, "id").withDetail(fmt.Sprintf("header %s is not 1 to %d printable ASCII characters without spaces", set.id, schema.MaxSvixIDLen))
		case isAmbiguous(c.id):
			return claim{}, reject(badRequest, "id").withDetail("header " + set.id + " has a number between dots, where the signed text has the timestamp")
		case len(header.Get(set.signature)) > maxSignature:
			return claim{}, reject(badRequest, "signature_length").withDetail(fmt.Sprintf("header %s is longer than %d bytes", set.signature, maxSignature))
		}
		return c, nil
	}
	return claim{}, reject(unauthorized, "missing_header")
}

// isAmbiguous reports whether a part of id after a dot reads as a timestamp. The
// signed text is "id.timestamp.body" and does not mark where the id ends: a
// signature for the id "a" and a body that begins with "1700000000." would also
// verify for the id "a.1700000000" and the rest of the body. The sender's ids
// have no dots.
func isAmbiguous(id string) bool {
	parts := strings.Split(id, ".")
	return slices.ContainsFunc(parts[1:], func(part string) bool {
		return part != "" && strings.Trim(part, "+-0123456789") == ""
	})
}

func (c claim) checkTimestamp(now time.Time, tolerance time.Duration) error {
	seconds, err := strconv.ParseInt(c.timestamp, 10, 64)
	skew := float64(seconds) - float64(now.Unix()) // of a forged timestamp, it may exceed an int64
	switch {
	case err != nil:
		return reject(unauthorized, "timestamp_malformed")
	case seconds < now.Add(-tolerance).Unix():
		return reject(unauthorized, "timestamp_too_old").withSkew(skew)
	case seconds > now.Add(tolerance).Unix():
		return reject(unauthorized, "timestamp_too_new").withSkew(skew)
	}
	return nil
}

// maxContentType is how much of the content type is kept, in bytes.
const maxContentType = 256

// quarantineHeader returns the headers that are kept with a quarantined body:
// the verified ones and the content type.
func (c claim) quarantineHeader(header http.Header) http.Header {
	kept := c.header.Clone()
	if contentType := header.Get("Content-Type"); contentType != "" {
		kept.Set("Content-Type", contentType[:min(len(contentType), maxContentType)])
	}
	return kept
}
