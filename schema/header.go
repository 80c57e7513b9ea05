package schema

import "net/url"

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
	var b []byte
	for i := 0; i < len(value); i++ {
		if c := value[i]; c <= ' ' || c > '~' || c == '"' || c == '%' {
			if b == nil {
				b = append(make([]byte, 0, len(value)+16), value[:i]...)
			}
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		} else if b != nil {
			b = append(b, c)
		}
	}
	if b == nil {
		return value
	}
	return string(b)
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
