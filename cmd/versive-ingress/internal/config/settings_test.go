package config

import (
	"encoding/base64"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// setenv sets the settings of one test, besides a secret.
func setenv(t *testing.T, settings map[string]string) {
	t.Helper()
	t.Setenv("INGRESS_SECRETS", testSecret)
	for name, value := range settings {
		t.Setenv(name, value)
	}
}

func secretsFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestSettingsByFullName reads every setting, with a value that is not its
// default.
func TestSettingsByFullName(t *testing.T) {
	environment := map[string]string{
		"INGRESS_LISTEN":           ":80",
		"INGRESS_PATH":             "/hook",
		"INGRESS_ADMIN_LISTEN":     ":81",
		"INGRESS_SECRETS":          "a, b",
		"INGRESS_SECRETS_FILE":     "secrets",
		"INGRESS_TOLERANCE":        "1m",
		"INGRESS_MAX_BODY":         "1MiB",
		"INGRESS_MAX_INFLIGHT":     "1GiB",
		"INGRESS_TLS_CERT":         "cert",
		"INGRESS_TLS_KEY":          "key",
		"INGRESS_NATS_URL":         "nats://a,nats://b",
		"INGRESS_NATS_CREDS":       "creds",
		"INGRESS_NATS_NKEY":        "nkey",
		"INGRESS_NATS_CA":          "ca",
		"INGRESS_NATS_CERT":        "nats cert",
		"INGRESS_NATS_KEY":         "nats key",
		"INGRESS_FORWARD_URL":      "nats://hub",
		"INGRESS_FORWARD_CREDS":    "hub creds",
		"INGRESS_FORWARD_NKEY":     "hub nkey",
		"INGRESS_FORWARD_CA":       "hub ca",
		"INGRESS_FORWARD_CERT":     "hub cert",
		"INGRESS_FORWARD_KEY":      "hub key",
		"INGRESS_FORWARD_REPLICAS": "5",
		"INGRESS_DATA_DIR":         "dir",
		"INGRESS_NATS_LISTEN":      "localhost:1",
		"INGRESS_NATS_CONFIG":      "config",
		"INGRESS_MAX_STORE":        "2TiB",
		"INGRESS_STREAM":           "S",
		"INGRESS_SUBJECT":          "s",
		"INGRESS_REPLICAS":         "3",
		"INGRESS_STREAM_MAX_BYTES": "10GiB",
		"INGRESS_MAX_AGE":          "720h",
		"INGRESS_DEDUPE_WINDOW":    "24h",
		"INGRESS_PUBLISH_TIMEOUT":  "2s",
		"INGRESS_PUBLISH_MODE":     "single",
		"INGRESS_DRAIN_DELAY":      "4s",
		"INGRESS_SHUTDOWN_TIMEOUT": "3s",
		"INGRESS_LOG_LEVEL":        "debug",
		"INGRESS_LOG_FORMAT":       "json",
	}
	want := Settings{
		Listen:          ":80",
		Path:            "/hook",
		AdminListen:     ":81",
		Secrets:         []string{"a", " b"}, // readSecrets trims
		SecretsFile:     "secrets",
		Tolerance:       time.Minute,
		MaxBody:         1 << 20,
		MaxInflight:     1 << 30,
		TLSCert:         "cert",
		TLSKey:          "key",
		NATSURL:         "nats://a,nats://b",
		NATSCreds:       "creds",
		NATSNKey:        "nkey",
		NATSCA:          "ca",
		NATSCert:        "nats cert",
		NATSKey:         "nats key",
		ForwardURL:      "nats://hub",
		ForwardCreds:    "hub creds",
		ForwardNKey:     "hub nkey",
		ForwardCA:       "hub ca",
		ForwardCert:     "hub cert",
		ForwardKey:      "hub key",
		ForwardReplicas: 5,
		DataDir:         "dir",
		NATSListen:      "localhost:1",
		NATSConfig:      "config",
		MaxStore:        2 << 40,
		Stream:          "S",
		Subject:         "s",
		Replicas:        3,
		StreamMaxBytes:  10 << 30,
		MaxAge:          720 * time.Hour,
		DedupeWindow:    24 * time.Hour,
		PublishTimeout:  2 * time.Second,
		PublishMode:     "single",
		DrainDelay:      4 * time.Second,
		ShutdownTimeout: 3 * time.Second,
		LogLevel:        slog.LevelDebug,
		LogFormat:       "json",
	}
	for _, f := range Fields() {
		if environment[f.Name] == "" {
			t.Errorf("%s is not tested", f.Name)
		}
		if f.Description == "" {
			t.Errorf("%s is not explained", f.Name)
		}
	}
	setenv(t, environment)
	got, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSettingsDefaults(t *testing.T) {
	want := Settings{
		Listen:          ":8080",
		Path:            "/webhooks/versive",
		AdminListen:     "127.0.0.1:9090",
		Tolerance:       5 * time.Minute,
		MaxInflight:     256 << 20,
		ForwardReplicas: 1,
		DataDir:         "./data",
		Stream:          "VERSIVE",
		Subject:         "versive",
		Replicas:        1,
		DedupeWindow:    48 * time.Hour,
		PublishTimeout:  8 * time.Second,
		PublishMode:     "auto",
		ShutdownTimeout: 20 * time.Second,
		LogLevel:        slog.LevelInfo,
	}
	// Variables without the prefix are ignored.
	for _, f := range Fields() {
		t.Setenv(strings.TrimPrefix(f.Name, "INGRESS_"), "/not/ours")
	}
	if diff := cmp.Diff(want, Defaults()); diff != "" {
		t.Error(diff)
	}
	for name, set := range map[string]func(string){
		"not set": func(string) {},
		"empty":   func(name string) { t.Setenv(name, "") },
	} {
		for _, f := range Fields() {
			set(f.Name)
		}
		got, err := Read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A check does not change the environment of the process, and of those it starts.
func TestReadKeepsEnvironment(t *testing.T) {
	setenv(t, map[string]string{"INGRESS_PATH": ""})
	if _, err := Read(); err != nil {
		t.Fatal(err)
	}
	if _, ok := os.LookupEnv("INGRESS_PATH"); !ok {
		t.Error("INGRESS_PATH was unset")
	}
}

func TestUnknownSettings(t *testing.T) {
	for _, name := range []string{
		"INGRESS_SECRET", "INGRESS_MAXBODY", "INGRESS_", "INGRESS_PATHS", "INGRESS_NATS_URLS",
		"INGRESS_SERVICE", "INGRESS_SERVICE_HOSTS", "INGRESS_listen", "INGRESS_PORT", "INGRESS_NATS_PORT", "INGRESS_PORTS",
		"INGRESS_PORT_8080", "INGRESS_PORT_HTTP_TCP", "INGRESS_NATS_HOST", "INGRESS_PORT_80_TCP_HOST",
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, map[string]string{name: testSecret})
			_, err := Load()
			if err == nil || !strings.HasPrefix(err.Error(), name+" ") {
				t.Errorf("got %v, want it to name %s", err, name)
			}
			if err != nil && strings.Contains(err.Error(), testSecret) {
				t.Errorf("the error quotes the value: %v", err)
			}
		})
	}
	// Variables that Kubernetes injects for services whose names begin with ingress, and
	// those of other programs.
	setenv(t, map[string]string{
		"INGRESS_NGINX_CONTROLLER_SERVICE_HOST":       "10.0.0.2",
		"INGRESS_NGINX_CONTROLLER_SERVICE_PORT":       "443",
		"INGRESS_NGINX_CONTROLLER_SERVICE_PORT_HTTPS": "443",
		"INGRESS_NGINX_CONTROLLER_PORT":               "tcp://10.0.0.2:443",
		"INGRESS_FOO_PORT_80_TCP":                     "tcp://[fd00::2]:80",
		"INGRESS_FOO_PORT_80_TCP_ADDR":                "fd00::2",
		"INGRESS_FOO_PORT_80_TCP_PORT":                "80",
		"INGRESS_FOO_PORT_80_TCP_PROTO":               "tcp",
		"INGRESS_FOO_PORT_53_UDP":                     "udp://10.0.0.2:53",
		"INGRESS_2_PORT_38412_SCTP_ADDR":              "10.0.0.2",
		"INGRESS_SERVICE_HOST":                        "10.0.0.1",
		"INGRESS_SERVICE_PORT":                        "8080",
		"INGRESS_SERVICE_PORT_HTTP":                   "8080",
		"INGRESS_PORT":                                "tcp://10.0.0.1:8080",
		"INGRESS_PORT_8080_TCP":                       "tcp://10.0.0.1:8080",
		"INGRESS_PORT_8080_TCP_ADDR":                  "10.0.0.1",
		"INGRESS_PORT_8080_TCP_PORT":                  "8080",
		"INGRESS_PORT_8080_TCP_PROTO":                 "tcp",
		"INGRESSES":                                   "2",
		"MY_INGRESS_PATH":                             "/",
	})
	if _, err := Load(); err != nil {
		t.Error(err)
	}
}

// TestPastedSecrets: what is wrapped around a secret when it is copied is removed,
// and its encoding becomes standard base64.
func TestPastedSecrets(t *testing.T) {
	const (
		first  = testSecret
		second = "whsec_++++////++++////++++////++++////+w=="
	)
	utf16Text := func(order binary.AppendByteOrder, text string) (encoded string) {
		for _, unit := range utf16.Encode([]rune("\ufeff" + text)) {
			encoded = string(order.AppendUint16([]byte(encoded), unit))
		}
		return encoded
	}
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"white space":         {" \t" + first + "\u00a0\n", []string{first}},
		"CRLF":                {first + "\r\n\r\n" + second + "\r\n", []string{first, second}},
		"quotes":              {`"` + first + `"`, []string{first}},
		"quotes of a shell":   {"'" + first + "'", []string{first}},
		"quotes of a text":    {"“" + first + "”", []string{first}},
		"quoted list":         {`"` + first + `, ` + second + `"`, []string{first, second}},
		"quoted each":         {`"` + first + `", '` + second + `'`, []string{first, second}},
		"version":             {"v1," + first, []string{first}},
		"versions":            {`"v1,` + first + `", "v1,` + second + `"`, []string{first, second}},
		"commas":              {"," + first + ",," + second + ", ", []string{first, second}},
		"two on a line":       {first + " " + second, []string{first, second}},
		"two and quotes":      {`"` + first + `" "` + second + `"`, []string{first, second}},
		"comment after":       {first + " # of the new endpoint\n" + second + "#" + first, []string{first, second}},
		"assignment":          {"INGRESS_SECRETS=" + first, []string{first}},
		"quoted assignment":   {"export INGRESS_SECRETS=\"" + first + "," + second + "\" # both", []string{first, second}},
		"byte order mark":     {"\ufeff" + first, []string{first}},
		"UTF-16":              {utf16Text(binary.LittleEndian, "# é\r\n"+first+"\r\n"), []string{first}},
		"UTF-16, big endian":  {utf16Text(binary.BigEndian, first+"\n"+second), []string{first, second}},
		"no padding":          {strings.TrimRight(second, "="), []string{second}},
		"too little padding":  {strings.TrimSuffix(second, "="), []string{second}},
		"URL alphabet":        {"whsec_----____----____----____----____-w==", []string{second}},
		"URL, no padding":     {"whsec_----____----____----____----____-w", []string{second}},
		"without prefix":      {first[len("whsec_"):], []string{first[len("whsec_"):]}},
		"no prefix, URL":      {"----____----____----____----____-w==", []string{"----____----____----____----____-w=="}},
		"cut off":             {second[:len(second)-3] + "/", []string{second[:len(second)-3] + "/"}},
		"two without a space": {first + second, []string{first + second}},
		"encoded twice":       {base64.StdEncoding.EncodeToString([]byte(first + "\n")), []string{first}},
		"space within":        {first[:20] + " " + first[20:], []string{first[:20] + " " + first[20:]}},
		"unprefixed, two":     {first + " " + first[len("whsec_"):], []string{first + " " + first[len("whsec_"):]}},
		"public key":          {"whpk_" + first[len("whsec_"):], []string{"whpk_" + first[len("whsec_"):]}},
		"organizations":       {"acme:" + first + ",globex:" + second, []string{"acme:" + first, "globex:" + second}},
		"on a line each":      {"acme:" + first + " # old\nacme:" + second + "\n", []string{"acme:" + first, "acme:" + second}},
		"two named on a line": {"acme:" + first + " " + second, []string{"acme:" + first, second}},
		"space after name":    {"acme: " + first, []string{"acme:" + first}},
		"name, quotes":        {`acme:"` + first + `", 'globex:v1,` + second + `'`, []string{"acme:" + first, "globex:" + second}},
		"name, no padding":    {"acme:" + strings.TrimRight(second, "="), []string{"acme:" + second}},
		"name, no prefix":     {"acme:" + first[len("whsec_"):], []string{"acme:" + first[len("whsec_"):]}},
		"name, encoded twice": {base64.StdEncoding.EncodeToString([]byte("acme:" + first + "\n")), []string{"acme:" + first}},
		"name kept as it is":  {" Big Co:" + first, []string{"Big Co:" + first}},
		"nothing":             {"", nil},
		"nothing but a quote": {`""`, nil},
		"half of UTF-16":      {"\xff\xfew", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range parseSecrets(c.text) {
				got = append(got, s.text)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	first, second := NewSecret(), NewSecret()
	for name, c := range map[string]struct {
		variable, file string
		want           []string
	}{
		"variable":         {variable: first, want: []string{first}},
		"several":          {variable: first + ", " + second, want: []string{first, second}},
		"without prefix":   {variable: strings.TrimPrefix(first, "whsec_"), want: []string{strings.TrimPrefix(first, "whsec_")}},
		"file":             {file: first + "\n" + second + "\n", want: []string{first, second}},
		"no newline":       {file: first, want: []string{first}},
		"CRLF":             {file: first + "\r\n" + second + "\r\n", want: []string{first, second}},
		"comments, blanks": {file: "# of the old endpoint\n\n  \n\t" + first + " \n#" + second + "\n", want: []string{first}},
		"both":             {variable: first, file: second, want: []string{first, second}},
		"trailing comma":   {variable: first + "," + second + ",", want: []string{first, second}},
		"empty, in file":   {variable: first, file: "\xef\xbb\xbf", want: []string{first}},
		"unprefixed, two":  {variable: "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw," + second, want: []string{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("INGRESS_SECRETS", c.variable)
			if c.file != "" {
				t.Setenv("INGRESS_SECRETS_FILE", secretsFile(t, c.file))
			}
			s, err := Load()
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.SigningSecrets()
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %d secrets (%v), or others than the %d", len(got), err, len(c.want))
			}
		})
	}
}
