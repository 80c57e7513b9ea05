package schema

import (
	"net/url"

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
)

const (
	typePrefix   = "com.getversive."
	sourcePrefix = "https://getversive.com/studies/"
)

// SchemaURN names version 1 of the canonical event, in the ce-dataschema
// header and as the $id of [JSONSchema].
const SchemaURN = "urn:versive-ingress:interview.completed:1"

// HeaderOriginalID keeps the svix-id of an event that was published again
// under a message id of its own.
const HeaderOriginalID = "Ingress-Original-Id"

// cloudEvent returns the headers of an event. endedAt is a canonical
// timestamp or null.
func cloudEvent(s Subject, endedAt jsontext.Value) map[string][]string {
	header := map[string][]string{
		headerSpecVersion:     {"1.0"},
		headerID:              {encodeHeader(s.ID)},
		headerType:            {typePrefix + s.Type},
		headerSource:          {sourcePrefix + url.PathEscape(s.StudyID)},
		headerSubject:         {encodeHeader(s.InterviewID)},
		headerDataContentType: {"application/json"},
		headerDataSchema:      {SchemaURN},
	}
	if endedAt.Kind() == '"' {
		header[headerTime] = []string{unquote(endedAt)}
	}
	return header
}

// encodeHeader percent-encodes a header value by the rule of CloudEvents'
// HTTP binding (section 3.1.3.2): everything but printable ASCII, and space,
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

// decodeHeader is the inverse of [encodeHeader].
func decodeHeader(value string) string {
	if s, err := url.PathUnescape(value); err == nil {
		return s
	}
	return value
}
