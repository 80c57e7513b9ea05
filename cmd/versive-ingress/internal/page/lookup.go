package page

import (
	"context"
	"net/http"
	"strings"

	"versive-ingress/cmd/versive-ingress/internal/find"
)

// A Lookup is what was found under a svix-id, an interview id or a study id.
type Lookup struct {
	ID      string        `json:"id"`
	Problem string        `json:"problem"` // why it could not be looked up completely, or ""
	Reports []find.Report `json:"reports"` // without the reasons of dead letters, which consumers write
	Similar []string      `json:"similar"` // ids of which something is stored, if nothing is under this one
}

// lookUp returns what is stored under the id in the parameter find, or nil if there is
// none.
func (p *Page) lookUp(r *http.Request) *Lookup {
	id := strings.TrimSpace(r.FormValue("find"))
	if id == "" {
		return nil
	}
	l := &Lookup{ID: id}
	source, err := p.source()
	if err != nil {
		l.Problem = err.Error()
		return l
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	finder := find.Finder{Source: source, MaxConsumers: maxConsumers}
	l.Reports, err = finder.Find(ctx, id)
	for _, report := range l.Reports {
		for i := range report.DeadLetters {
			report.DeadLetters[i].Reason = ""
		}
	}
	if err == nil && len(l.Reports) == 0 {
		l.Similar, err = finder.Suggest(ctx, id)
	}
	if err != nil {
		l.Problem = err.Error()
	}
	return l
}
