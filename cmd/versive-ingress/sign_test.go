package main

import (
	"encoding/base64"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
)

// sign posts a file with testdata/sign.sh: another's opinion on what a
// signature is.
func sign(t *testing.T, args ...string) string {
	t.Helper()
	for _, tool := range []string{"openssl", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test signs with openssl and posts with curl; install %s: %v", tool, err)
		}
	}
	cmd := exec.Command("testdata/sign.sh", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sign.sh: %v\n%s", err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

func TestIndependentSignature(t *testing.T) {
	t.Parallel()
	// Keys that a shell could spoil: with NUL, newlines, and high bytes.
	awkward := "whsec_" + base64.StdEncoding.EncodeToString([]byte("\x00\n\xff\r \x00 24 bytes or more \n\n"))
	s := newSettings(t)
	s.Secrets = append(s.Secrets, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", awkward)
	sys := run(t, s)

	for i, secret := range s.Secrets {
		id, sequence := "msg_"+strconv.Itoa(i), strconv.Itoa(i+1)
		for _, outcome := range []string{"stored", "duplicate"} {
			want := `200 {"outcome":"` + outcome + `","stream":"VERSIVE","sequence":` + sequence + `}`
			if got := sign(t, sys.url, secret, id, "sample.json"); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
	raw := writeFile(t, "raw", "\x00\xff\r\n not JSON \n\n")
	if got := sign(t, sys.url, s.Secrets[0], "msg_raw", raw); !strings.HasPrefix(got, `202 {"outcome":"quarantined","reason":"malformed"`) {
		t.Errorf("a body of any bytes: %s", got)
	}
	stale := strconv.FormatInt(time.Now().Add(-6*time.Minute).Unix(), 10)
	for name, got := range map[string]string{
		"another secret": sign(t, sys.url, config.NewSecret(), "msg_0", "sample.json"),
		"stale":          sign(t, sys.url, s.Secrets[0], "msg_0", "sample.json", stale),
	} {
		if !strings.HasPrefix(got, "401 ") {
			t.Errorf("%s: %s", name, got)
		}
	}
	requireStored(t, embeddedtest.Connect(t, sys.BrokerURL()), s.Stream, map[string]uint64{"msg_0": 1, "msg_1": 2, "msg_2": 3})
}
