package schema

// Headers of a quarantined message. Those of the request are kept under names
// of our own: a header of a request must never reach the broker, which takes
// some as commands.
const (
	HeaderReason      = "Ingress-Reason"      // the [Reason]; of a dead letter, see [DeadLetter]
	HeaderDescription = "Ingress-Description" // see [Error.Description]
	HeaderHTTP        = "Ingress-Http-"       // prefix: Ingress-Http-Svix-Id, …
)

// Quarantine makes the message that keeps the body of a verified webhook
// exactly as it came, because Normalize returned reason. From origin it keeps
// every header, so the caller passes only the verified ones and the content
// type. The message aliases body.
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
	return Message{Kind: KindQuarantine, ID: id, Header: header, Data: body, tokens: Escape(id)}
}
