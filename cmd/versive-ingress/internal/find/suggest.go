package find

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"versive-ingress/schema"
)

// maxSuggestions bounds what Suggest returns.
const maxSuggestions = 5

// Suggest returns ids of which something is stored, such as "interview 3fa85f64", that
// begin with an id, or differ from it only by the case of letters. If there are too many
// events to compare all, it looks for the id in lower and in upper case.
func (f Finder) Suggest(ctx context.Context, id string) ([]string, error) {
	stream, err := f.open(ctx, schema.KindEvent)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	if stream.CachedInfo().State.NumSubjects > maxSubjects {
		for _, other := range [...]string{strings.ToLower(id), strings.ToUpper(id)} {
			for name, filter := range map[string]schema.Filter{"event": {ID: other}, "interview": {InterviewID: other}, "study": {StudyID: other}} {
				n, err := f.count(ctx, stream, filter.Subject("*"), 1, time.Time{})
				if err != nil {
					return nil, err
				}
				found[name+" "+other] = n > 0
			}
		}
		maps.DeleteFunc(found, func(_ string, stored bool) bool { return !stored })
	} else {
		subjects, err := f.subjects(ctx, stream, ">")
		if err != nil {
			return nil, err
		}
		for _, subject := range subjects {
			s, err := schema.ParseSubject(subject)
			if err != nil {
				continue
			}
			for _, candidate := range [...][2]string{{"event", s.ID}, {"interview", s.InterviewID}, {"study", s.StudyID}} {
				// As commands print it, or as it is in the subject.
				if hasPrefix(candidate[1], id) || hasPrefix(schema.Escape(candidate[1]), id) {
					found[candidate[0]+" "+candidate[1]] = true
				}
			}
		}
	}
	list := slices.Sorted(maps.Keys(found))
	return list[:min(len(list), maxSuggestions)], nil
}

// hasPrefix reports whether s begins with prefix, in any case of letters.
func hasPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
