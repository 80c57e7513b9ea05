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
// begin with an id, or differ from it only by the case of letters; or, if something is
// stored under the id itself by another organization, that alone. If there are too many
// events to compare all, it looks for the id in lower and in upper case.
func (f Finder) Suggest(ctx context.Context, id string) ([]string, error) {
	stream, err := f.open(ctx, schema.KindEvent)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	if err := f.suggestQuarantined(ctx, id, found); err != nil {
		return nil, err
	}
	if stream.CachedInfo().State.NumSubjects > maxSubjects {
		for _, other := range [...]string{strings.ToLower(id), strings.ToUpper(id)} {
			for _, kind := range idKinds {
				n, err := count(ctx, stream, kind.subject(other), 1, time.Time{})
				if err != nil {
					return nil, err
				}
				if n > 0 {
					found[kind.name+" "+other] = true
				}
			}
		}
	} else {
		subjects, err := f.subjects(ctx, stream, ">")
		if err != nil {
			return nil, err
		}
		for subject := range subjects {
			s, err := schema.ParseSubject(subject)
			if err != nil {
				continue
			}
			for _, kind := range idKinds {
				// As commands print it, or as it is in the subject.
				if other := kind.of(s); hasPrefix(other, id) || hasPrefix(schema.Escape(other), id) {
					found[kind.name+" "+other] = true
				}
			}
		}
	}
	for _, kind := range idKinds {
		if exact := kind.name + " " + id; found[exact] {
			return []string{exact}, nil
		}
	}
	list := slices.Sorted(maps.Keys(found))
	return list[:min(len(list), maxSuggestions)], nil
}

// suggestQuarantined adds the svix-ids in the quarantine that are similar to an id. Those
// of dead letters are those of events.
func (f Finder) suggestQuarantined(ctx context.Context, id string, found map[string]bool) error {
	stream, err := f.open(ctx, schema.KindQuarantine)
	if err != nil || stream.CachedInfo().State.NumSubjects > maxSubjects {
		return err
	}
	subjects, err := f.subjects(ctx, stream, ">")
	for subject := range subjects {
		if other, err := schema.ParseID(subject); err == nil && hasPrefix(other, id) {
			found[idKinds[0].name+" "+other] = true
		}
	}
	return err
}

// hasPrefix reports whether s begins with prefix, in any case of letters.
func hasPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
