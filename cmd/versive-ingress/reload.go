package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// settleTime is from the first sign of a change to reading: a certificate and
// its key are two files. It does not grow with further signs, for in a busy
// directory there is always one more.
const settleTime = 200 * time.Millisecond

// A source is files that are read again, together, when they change.
type source struct {
	name  string // in the log and in metrics
	files []string
	load  func() error // takes what the files hold into use, or changes nothing

	seen [sha256.Size]byte // what they held when they were last read
}

// A reloader reads sources again when their files change, and when it is told
// to. It watches directories, not files: editors and Kubernetes put new files,
// or links to them, in the place of the old ones.
type reloader struct {
	log     *slog.Logger
	sources []*source
	watcher *fsnotify.Watcher
	now     chan os.Signal // reads everything again

	successful *prometheus.GaugeVec
	successAt  *prometheus.GaugeVec

	end     context.CancelFunc // of run
	running sync.WaitGroup
}

// newReloader reads all sources once, for they may have changed since the
// start began, and then whenever they change, until stop.
func newReloader(log *slog.Logger, metrics prometheus.Registerer, sources []*source) (*reloader, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching files: %w", err)
	}
	factory := promauto.With(metrics)
	r := &reloader{
		log:     log,
		sources: sources,
		watcher: watcher,
		now:     make(chan os.Signal, 1),
		successful: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "versive_ingress_config_last_reload_successful",
			Help: "Whether the files of the source could be used when they were last read; if not (0), what they held before is in use.",
		}, []string{"source"}),
		successAt: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "versive_ingress_config_last_reload_success_timestamp_seconds",
			Help: "When the files of the source were last taken into use.",
		}, []string{"source"}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.end = cancel
	r.readAll(true)
	r.running.Go(func() { r.run(ctx) })
	return r, nil
}

func (r *reloader) stop() {
	r.end()
	r.running.Wait()
	r.watcher.Close()
}

func (r *reloader) run(ctx context.Context) {
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.now:
			r.log.Info("reading files again: SIGHUP")
			r.readAll(true)
			continue
		case <-settled:
			settled = nil
			r.readAll(false)
			continue
		case <-r.watcher.Events:
		case err := <-r.watcher.Errors: // of events that were lost, say
			r.log.Warn("watching files", "error", err)
		}
		if settled == nil {
			settled = time.After(settleTime)
		}
	}
}

// readAll takes every source into use whose files have changed, or all.
func (r *reloader) readAll(all bool) {
	for _, s := range r.sources {
		// Before reading, so that no change falls between. Each time, for what
		// was watched may have been replaced.
		r.watch(s.files)
		if seen := s.sum(); all || seen != s.seen {
			s.seen = seen
			r.read(s)
		}
	}
}

func (r *reloader) read(s *source) {
	if err := s.load(); err != nil {
		r.successful.WithLabelValues(s.name).Set(0)
		r.log.Error("files cannot be used; what they held before stays in use", "source", s.name, "error", err)
		return
	}
	r.successful.WithLabelValues(s.name).Set(1)
	r.successAt.WithLabelValues(s.name).SetToCurrentTime()
	r.log.Info("files are in use", "source", s.name)
}

// watch adds the directories of files, and those that links lead to.
func (r *reloader) watch(files []string) {
	for _, file := range files {
		directories := []string{filepath.Dir(file)}
		if target, err := filepath.EvalSymlinks(file); err == nil {
			directories = append(directories, filepath.Dir(target))
		}
		for _, directory := range directories {
			if err := r.watcher.Add(directory); err != nil {
				r.log.Warn("changes in this directory will not be noticed; send SIGHUP after them", "directory", directory, "error", err)
			}
		}
	}
}

// sum tells apart what the files hold at different times.
func (s *source) sum() [sha256.Size]byte {
	var sums []byte
	for _, file := range s.files {
		text, err := os.ReadFile(file)
		if err != nil {
			text = []byte(err.Error())
		}
		sum := sha256.Sum256(text)
		sums = append(sums, sum[:]...)
	}
	return sha256.Sum256(sums)
}
