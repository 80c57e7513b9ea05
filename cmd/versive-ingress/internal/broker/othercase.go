package broker

import (
	"context"
	"strings"

	"versive-ingress/publish"
	"versive-ingress/schema"
)

// CaseSensitive explains why nothing is found.
const CaseSensitive = "ids are case-sensitive"

// SeeFind is CaseSensitive with how to find the right id.
const SeeFind = CaseSensitive + "; versive-ingress find ID looks for similar ones"

// OtherCase returns CaseSensitive and the id that the event stream has instead of one
// of f, if that is the same in lower or upper case; otherwise "".
func (c *Connection) OtherCase(ctx context.Context, f schema.Filter) string {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	stream, err := publish.OpenStream(ctx, c.JetStream, c.Settings.Stream)
	if err != nil {
		return ""
	}
	for _, kind := range [...]struct {
		name, id string
		filter   func(id string) schema.Filter
	}{
		{"interview", f.InterviewID, func(id string) schema.Filter { return schema.Filter{InterviewID: id} }},
		{"study", f.StudyID, func(id string) schema.Filter { return schema.Filter{StudyID: id, NoInterview: f.NoInterview} }},
	} {
		if kind.id == "" {
			continue
		}
		for _, id := range [...]string{kind.id, strings.ToLower(kind.id), strings.ToUpper(kind.id)} {
			if _, err := stream.GetLastMsgForSubject(ctx, kind.filter(id).Subject("*")); err != nil {
				continue
			}
			if id == kind.id {
				break
			}
			return CaseSensitive + ": the stream has " + kind.name + " " + id
		}
	}
	return ""
}
