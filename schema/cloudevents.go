package schema

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// CloudEvents 1.0 attributes, as headers of a message in binary mode. The
// names are case-sensitive.
const (
	headerSpecVersion     = "ce-specversion"
	headerID              = "ce-id"
	headerType            = "ce-type"
	headerSource          = "ce-source"
	headerSubject         = "ce-subject"
	headerTime            = "ce-time"
	headerDataContentType = "ce-datacontenttype"
	headerDataSchema      = "ce-dataschema"
	headerOrganization    = "ce-organization" // an extension
)

const (
	typePrefix   = "com.getversive."
	sourcePrefix = "https://getversive.com/"
)

// HeaderOriginalID names the header that keeps the svix-id of an event that
// was published again under a message id of its own.
const HeaderOriginalID = "Ingress-Original-Id"

// newHeader returns a header of pairs of a name and a value, without the pairs
// whose value is "".
func newHeader(pairs ...string) map[string][]string {
	h := make(map[string][]string, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			h[pairs[i]] = pairs[i+1 : i+2 : i+2]
		}
	}
	return h
}

// source returns the ce-source of what a subject names: the study's URI.
func (s Subject) source() string {
	if s.StudyID == "" {
		return sourcePrefix
	}
	return sourcePrefix + "studies/" + url.PathEscape(s.StudyID)
}

// encodeHeader percent-encodes a header value by the rule of CloudEvents'
// HTTP binding (section 3.1.3.2): all bytes but printable ASCII, and space,
// double quote and percent.
func encodeHeader(value string) string {
	return escape(value, func(c byte) bool { return c > ' ' && c <= '~' && c != '"' && c != '%' })
}

// decodeHeader is the inverse of [encodeHeader]. A value that is not
// percent-encoded is returned as it is.
func decodeHeader(value string) string {
	if s, err := url.PathUnescape(value); err == nil {
		return s
	}
	return value
}

// first returns the first value of a header, or "".
func first(header map[string][]string, name string) string {
	if values := header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// attributes are the CloudEvents attributes of an event, in the order in which
// they are written.
var attributes = [...]string{
	headerSpecVersion, headerID, headerSource, headerType, headerSubject, headerTime, headerDataContentType, headerDataSchema, headerOrganization,
}

// AppendStructured appends an event or a tombstone, as it is stored, to dst as
// a CloudEvent in JSON format (structured mode), on one line without its end:
//
//	{"specversion":"1.0","id":"msg_1",…,"sequence":"00000000000000000042","storedat":"2024-01-01T00:09:42Z","data":{…}}
//
// Two extension attributes give its place in the stream: sequence, which has a
// fixed width so that it sorts as text, and storedat. The data is copied byte for
// byte, except that line breaks between its tokens become spaces.
//
// An error means that the header is not that of an event or a tombstone; dst is
// then returned unchanged.
func AppendStructured(dst []byte, header map[string][]string, data []byte, sequence uint64, storedAt time.Time) ([]byte, error) {
	if len(header[headerID]) == 0 || len(header[headerType]) == 0 {
		return dst, errors.New("is not a CloudEvent: it has no " + headerID + " or no " + headerType + " header")
	}
	start := len(dst)
	separator := byte('{')
	for _, name := range attributes {
		value := first(header, name)
		if value == "" {
			continue
		}
		if name != headerSource { // a URI, which is encoded in JSON too
			value = decodeHeader(value)
		}
		dst = append(dst, separator)
		dst = fmt.Appendf(dst, "%q:", strings.TrimPrefix(name, "ce-"))
		var err error
		if dst, err = jsontext.AppendQuote(dst, value); err != nil {
			return dst[:start], fmt.Errorf("header %s is not valid UTF-8", name)
		}
		separator = ','
	}
	dst = fmt.Appendf(dst, `,"sequence":"%020d","storedat":"%s"`, sequence, storedAt.UTC().Format(time.RFC3339Nano))
	if len(data) > 0 {
		dst = append(dst, `,"data":`...)
		dst = append(dst, data...)
		copied := dst[len(dst)-len(data):]
		for i, c := range copied {
			if c == '\n' || c == '\r' {
				copied[i] = ' '
			}
		}
	}
	return append(dst, '}'), nil
}
