// Package page serves the status page of the admin listener: the requests of the last
// hour, the streams, the backlog, the consumers, the last events, and the report of
// doctor. It shows ids and counts, never the content of an interview.
//
// The page is read-only, and is rendered from a [Status], which is also served as JSON.
// The broker is read when the page is requested; only the counts of requests are kept,
// once a minute.
package page

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// Config configures a Page. All fields must be set.
type Config struct {
	Stream    string // of events
	Subject   string // first token of their subjects
	Version   string
	Metrics   prometheus.Gatherer
	Ready     func() error               // as /readyz answers
	JetStream func() jetstream.JetStream // the connection of the ingress; nil before it is open
}

// A Page serves the status of an ingress. Its methods are safe for concurrent use.
type Page struct {
	cfg     Config
	history history
	doctor  checkup

	reading singleflight.Group // so that concurrent requests share one status
	latest  *Status            // nil before the first; used only within reading
}

// statusAge is how old a status may be when it is served again.
const statusAge = time.Second

// New returns a Page. It has no requests and no report of doctor before Run.
func New(cfg Config) *Page { return &Page{cfg: cfg} }

// Run keeps the counts of requests every minute until ctx ends, and then waits for the
// checks of doctor, which are made with the settings s.
func (p *Page) Run(ctx context.Context, s config.Settings) {
	p.doctor.begin(ctx, s)
	defer p.doctor.wait()
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	p.history.add(time.Now(), p.counts())
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			p.history.add(now, p.counts())
		}
	}
}

//go:embed page.html style.css refresh.js
var files embed.FS

var document = template.Must(template.New("page.html").Funcs(functions).ParseFS(files, "page.html"))

// A view is what the template renders, and /status encodes.
type view struct {
	*Status
	Find *Lookup `json:"find"` // nil if nothing is looked for
}

// Register adds the page at /, its data at /status, and its style sheet and script.
func (p *Page) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		var page bytes.Buffer
		if err := document.Execute(&page, view{p.look(r), p.lookUp(r)}); err != nil {
			http.Error(w, "the page cannot be rendered: "+err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, "text/html; charset=utf-8", page.Bytes())
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		body, err := json.Marshal(view{p.look(r), p.lookUp(r)}, json.Deterministic(true), jsontext.WithIndent("  "), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			http.Error(w, "the status cannot be encoded: "+err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, "application/json", append(body, '\n'))
	})
	for name, contentType := range map[string]string{"style.css": "text/css; charset=utf-8", "refresh.js": "text/javascript; charset=utf-8"} {
		content, _ := files.ReadFile(name) // is embedded
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) { answer(w, contentType, content) })
	}
}

// answer writes a part of the page. A browser then runs nothing but its own script, sends
// its address nowhere, and lets no other site frame or read it.
func answer(w http.ResponseWriter, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(body) // the browser may be gone
}
