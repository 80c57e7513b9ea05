package main

import (
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// The long form is `make chaos`. A round that has failed is run again by its
// fault and its seed.
var (
	chaosSeeds  = flag.Int("chaos.seeds", 0, "TestChaos runs each fault with this many seeds; 0 is the short form: one seed, and none of the faults that take minutes; without root those of the disk are skipped")
	chaosSeed   = flag.Uint64("chaos.seed", 1, "the first of them")
	chaosFaults = flag.String("chaos.faults", "", "the faults, comma separated, by name or pattern (disk-*); empty is all")
)

// A fault is staged while a storm of webhooks comes in, at moments and in
// numbers that a seed decides.
type fault struct {
	name  string
	long  bool // only in the long form
	stage func(*round)
}

// faults are all of them; those of one operating system are in its own files.
var faults = []fault{
	{"kill-ingress", false, killIngress},
	{"kill-batch", false, killBatch},
	{"kill-broker", false, killBroker},
	{"freeze-broker", false, freezeBroker},
	{"cut-ack", false, cutAcks},
	{"delay-ack", false, delayAcks},
	{"drop-ack", false, dropAcks},
	{"hang-up", false, hangUp},
	{"two-ingresses", false, twoIngresses},
	{"full-stream", false, fullStream},
	{"full-store", false, fullStore},
	{"clock", false, jumpClock},
	{"cluster", false, anyOfCluster},
	{"kill-leader", true, killLeader},
	{"freeze-leader", true, freezeLeader},
	{"partition-leader", true, partitionLeader},
	{"rolling-restart", true, rollingRestart},
}

// A round is one fault with one seed.
type round struct {
	testing.TB
	seed   uint64
	random *rand.Rand
	long   bool
	storm  *storm
	staged int // faults
	began  time.Time
}

// TestChaos stages faults under load and then holds the whole history of
// requests and answers against what is stored.
func TestChaos(t *testing.T) {
	t.Parallel()
	skipProcesses(t)
	long := *chaosSeeds > 0
	chosen := faults
	if *chaosFaults != "" {
		chosen = nil
		for name := range strings.SplitSeq(*chaosFaults, ",") {
			before := len(chosen)
			for _, f := range faults {
				if match, err := path.Match(name, f.name); err != nil {
					t.Fatalf("-chaos.faults: %q: %v", name, err)
				} else if match {
					chosen = append(chosen, f)
				}
			}
			if len(chosen) == before {
				t.Fatalf("-chaos.faults: there is no fault %q", name)
			}
		}
	}

	// In the short form a few more run concurrently, because they mostly wait.
	atOnce := make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	if long {
		atOnce = make(chan struct{}, runtime.GOMAXPROCS(0))
	}
	var mu sync.Mutex
	results := make(map[string]*counts) // by fault; guarded by mu
	var running sync.WaitGroup
	for _, f := range chosen {
		if f.long && !long {
			continue
		}
		mu.Lock()
		results[f.name] = &counts{}
		mu.Unlock()
		for seed := *chaosSeed; seed < *chaosSeed+uint64(max(*chaosSeeds, 1)); seed++ {
			running.Go(func() {
				atOnce <- struct{}{}
				defer func() { <-atOnce }()
				t.Run(fmt.Sprintf("%s/seed=%d", f.name, seed), func(t *testing.T) {
					r := newRound(t, f, seed)
					defer func() {
						mu.Lock()
						defer mu.Unlock()
						results[f.name].add(r.finish(f, seed))
					}()
					f.stage(r)
				})
			})
		}
	}
	running.Wait()
	t.Log(tableOf(results))
}

func newRound(t *testing.T, f fault, seed uint64) *round {
	h := fnv.New64()
	h.Write([]byte(f.name))
	return &round{
		TB:     t,
		seed:   seed,
		random: rand.New(rand.NewPCG(seed, h.Sum64())),
		long:   *chaosSeeds > 0,
		storm:  &storm{},
		began:  time.Now(),
	}
}

// finish returns what a round came to, complete or not.
func (r *round) finish(f fault, seed uint64) counts {
	if r.Failed() {
		r.Logf("to run it again: go test -run 'TestChaos$' -v ./cmd/versive-ingress -chaos.faults %s -chaos.seed %d -chaos.seeds %d", f.name, seed, min(1, *chaosSeeds))
	}
	c := r.storm.counts()
	c.rounds, c.staged = 1, r.staged
	r.Logf("%d faults, %d events, %d requests in %v", c.staged, c.events, c.requests, time.Since(r.began).Round(time.Millisecond))
	return c
}

// launch starts the ingress as a process. Its log is shown if the round fails.
func (r *round) launch(s config.Settings) *exec.Cmd {
	r.Helper()
	cmd, log := launch(r, "versive-ingress", s)
	r.Cleanup(func() {
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "stream has lost messages") {
				r.Errorf("an ingress reports a loss, and nothing is lost: %s", line)
			}
		}
		if r.Failed() {
			text := log.String()
			r.Logf("the end of the log of an ingress:\n%s", text[max(0, len(text)-4<<10):])
		}
	})
	return cmd
}

// pause waits for a moment that the seed decides.
func (r *round) pause(least, most time.Duration) {
	time.Sleep(least + time.Duration(r.random.Int64N(int64(most-least))))
}

// times runs stage a few times, after something has been accepted each time.
func (r *round) times(most int, stage func()) {
	r.Helper()
	for range r.few(most) {
		r.storm.awaitAccepted(r, 1+r.random.IntN(60))
		stage()
		r.staged++
	}
}

// few is 1 to most in the long form, and 1 in the short one.
func (r *round) few(most int) int {
	if !r.long {
		return 1
	}
	return 1 + r.random.IntN(most)
}
