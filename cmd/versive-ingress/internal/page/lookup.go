package page

import (
	"context"
	"net/http"
	"strings"

	"versive-ingress/cmd/versive-ingress/internal/find"
)

// A Lookup is the answer to a look for a svix-id, an interview or a study.
type Lookup struct {
	ID      string        `json:"id"`
	Problem string        `json:"problem"` // why there is no answer
	Reports []find.Report `json:"reports"` // without the reasons of dead letters, which consumers write
	Similar []string      `json:"similar"` // ids of which something is stored, if nothing is under this one
}

// lookUp returns what is known of the id that a request looks for, and nil if it looks for
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
	finder := find.Finder{Source: source}
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
