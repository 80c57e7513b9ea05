package schema

import "bytes"

// Headers of a quarantined message. The headers of the request are kept under
// names that begin with HeaderHTTP: under their own names, the broker could take
// them for commands.
const (
	HeaderReason      = "Ingress-Reason"      // the [Reason]; of a dead letter, see [DecodeReason]
	HeaderDescription = "Ingress-Description" // see [Error.Description]
	HeaderHTTP        = "Ingress-Http-"       // prefix: Ingress-Http-Svix-Id, and so on
)

// Quarantine returns the message that keeps the body of a verified webhook
// exactly as it was received, because Normalize returned the given error. It
// keeps every header in origin, percent-encoded, so the caller passes only the
// verified ones and the content type. The message does not alias body.
func Quarantine(id string, body []byte, reason *Error, origin map[string][]string) Message {
	header := map[string][]string{
		HeaderReason:      {string(reason.Reason)},
		HeaderDescription: {reason.Description()},
	}
	for name, values := range origin {
		for _, value := range values {
			header[HeaderHTTP+name] = append(header[HeaderHTTP+name], encodeHeader(value))
		}
	}
	return Message{Kind: KindQuarantine, ID: id, Header: header, Data: bytes.Clone(body), tokens: Escape(id)}
}
