package schema

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// attributes are the CloudEvents attributes of an event, in the order in which
// they are written. The source is a URI, encoded as such: the header's value is
// the attribute's.
var attributes = [...]struct {
	header, name string
	decode       func(string) string
}{
	{headerSpecVersion, `"specversion":`, decodeHeader},
	{headerID, `"id":`, decodeHeader},
	{headerSource, `"source":`, func(s string) string { return s }},
	{headerType, `"type":`, decodeHeader},
	{headerSubject, `"subject":`, decodeHeader},
	{headerTime, `"time":`, decodeHeader},
	{headerDataContentType, `"datacontenttype":`, decodeHeader},
	{headerDataSchema, `"dataschema":`, decodeHeader},
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
	start := len(dst)
	separator := byte('{')
	for _, a := range attributes {
		values := header[a.header]
		if len(values) == 0 {
			continue
		}
		dst = append(dst, separator)
		dst = append(dst, a.name...)
		var err error
		if dst, err = jsontext.AppendQuote(dst, a.decode(values[0])); err != nil {
			return dst[:start], fmt.Errorf("header %s is not valid UTF-8", a.header)
		}
		separator = ','
	}
	if len(header[headerID]) == 0 || len(header[headerType]) == 0 {
		return dst[:start], errors.New("is not a CloudEvent: it has no " + headerID + " or no " + headerType + " header")
	}
	dst = fmt.Appendf(dst, `,"sequence":"%020d","storedat":"%s"`, sequence, storedAt.UTC().Format(time.RFC3339Nano))
	if len(data) > 0 {
		dst = append(dst, `,"data":`...)
		dst = append(dst, data...)
		oneLine(dst[len(dst)-len(data):])
	}
	return append(dst, '}'), nil
}

// oneLine replaces the line breaks in valid JSON, all of which are between
// tokens, by spaces.
func oneLine(data []byte) {
	for _, c := range [...]byte{'\n', '\r'} {
		for rest := data; ; {
			i := bytes.IndexByte(rest, c)
			if i < 0 {
				break
			}
			rest[i] = ' '
			rest = rest[i+1:]
		}
	}
}
