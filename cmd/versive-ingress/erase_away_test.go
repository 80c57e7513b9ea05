package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
)

// A member of a site that was away during an erasure, for so long that it gets the end of
// the stream from the others, deletes the copy without overwriting it. It notices that, and
// overwrites it at its next start.
func TestErasureWhileAway(t *testing.T) {
	t.Parallel()
	site, u := newSite(t)
	var programs []*exec.Cmd
	var clients []string
	for _, s := range site {
		program, _ := launch(t, "versive-ingress", s)
		programs, clients = append(programs, program), append(clients, broker.URL(s))
	}
	for _, s := range site {
		awaitReady(t, s)
	}
	_, js := u.connect(t, strings.Join(clients, ","), u.operator)
	leader := 0
	embeddedtest.Await(t, "a leader", func() bool {
		stream, err := js.Stream(t.Context(), "VERSIVE")
		if err != nil || !current(t.Context(), js, "VERSIVE", 3) {
			return false
		}
		_, err = fmt.Sscanf(stream.CachedInfo().Cluster.Leader, "node-%d", &leader)
		return err == nil
	})
	away, other := (leader+1)%3, (leader+2)%3
	to := sender.Sender{URL: "http://" + site[other].Listen + site[other].Path}
	if err := to.SignWith(site[0].Secrets[0]); err != nil {
		t.Fatal(err)
	}
	post := func(id string, body []byte) {
		t.Helper()
		embeddedtest.Await(t, "the event is stored", func() bool {
			answer, err := to.Post(t.Context(), id, time.Now(), body)
			return err == nil && answer.Accepted()
		})
	}
	large := func(name string) { // more than 8 MiB, which a log keeps, even if compressed
		for i := range 12 {
			id, random := fmt.Sprint("msg_", name, i), make([]byte, 600<<10)
			rand.Read(random)
			post(id, []byte(strings.Replace(string(interview(id)), `"transcript": "`, `"transcript": "`+base64.StdEncoding.EncodeToString(random), 1)))
		}
	}
	blocks := filepath.Join(site[away].DataDir, "jetstream", "VERSIVE", "streams", "VERSIVE")
	post("msg_0", interview("interview_0"))
	post("msg_1", plantedBody("interview.completed", "interview_1"))
	embeddedtest.Await(t, "it is there", func() bool { return len(filesWith(t, blocks, planted)) > 0 })
	terminate(t, programs[away])
	s := site[other]
	s.NATSNKey = u.operator
	large("before")
	must(t, s, "erase", "--interview", "interview_1", "--yes")
	large("after")

	program, log := launch(t, "versive-ingress", site[away])
	embeddedtest.Await(t, "it has the stream", func() bool { return current(t.Context(), js, "VERSIVE", 3) })
	embeddedtest.Await(t, "what is left is noticed", func() bool { return strings.Contains(log.String(), "content of erased messages") })
	s = site[away]
	s.NATSNKey = u.operator
	if out, _ := runCommand(t, "versive-ingress", s, "doctor"); !strings.Contains(out, "erased_content: ") {
		t.Errorf("doctor does not find it: %s", out)
	}
	if len(filesWith(t, blocks, planted)) == 0 {
		t.Error("the server has overwritten it; is all this still needed?")
	}
	terminate(t, program)
	launch(t, "versive-ingress", site[away])
	awaitReady(t, site[away])
	if files := filesWith(t, blocks, planted); len(files) > 0 {
		t.Errorf("it is still in %v", files)
	}
	embeddedtest.Await(t, "it has the stream", func() bool { return current(t.Context(), js, "VERSIVE", 3) })
}
