package config

import (
	"math"
	"strings"
	"testing"
)

// FuzzSettings gives two settings any value: that never ends in a panic, and
// what is refused is refused in one line that names a variable and no secret.
func FuzzSettings(f *testing.F) {
	names := Fields()
	index := func(name string) byte {
		for i, f := range names {
			if f.Name == "INGRESS_"+name {
				return byte(i)
			}
		}
		panic(name)
	}
	f.Add(index("PATH"), "/x", index("STREAM"), "S")
	f.Add(index("SECRETS"), "whsec_", index("NATS_URL"), "@host:4222,")
	f.Add(index("SECRETS"), ",,", index("NATS_URL"), "%")
	f.Add(index("SECRETS_FILE"), "secrets", index("TLS_CERT"), "cert.pem")
	f.Add(index("MAX_BODY"), "31MiB", index("MAX_INFLIGHT"), "8EiB")
	f.Add(index("MAX_STORE"), "-1TiB", index("REPLICAS"), "99999999999999999999")
	f.Add(index("LISTEN"), "[::1", index("NATS_LISTEN"), "::::")
	f.Add(index("MAX_AGE"), "1e9h", index("DEDUPE_WINDOW"), "-1ns")
	f.Add(index("LOG_LEVEL"), "INFO+9", index("LOG_FORMAT"), "\xff\n")
	f.Add(index("NATS_CONFIG"), ".", index("NATS_LISTEN"), "0.0.0.0:1")

	const secret = "hunter2-hunter2-hunter2"
	f.Fuzz(func(t *testing.T, first byte, firstValue string, second byte, secondValue string) {
		t.Setenv("INGRESS_SECRETS", testSecret)
		for i, value := range map[byte]string{first: firstValue, second: secondValue} {
			name := names[int(i)%len(names)].Name
			value = strings.ReplaceAll(value, "\x00", "") // not possible in an environment
			switch name {
			case "INGRESS_SECRETS":
				value += secret
			case "INGRESS_NATS_URL":
				value = "nats://user:" + secret + value
			case "INGRESS_SECRETS_FILE", "INGRESS_NATS_CONFIG", "INGRESS_TLS_CERT", "INGRESS_TLS_KEY",
				"INGRESS_NATS_CREDS", "INGRESS_NATS_NKEY", "INGRESS_NATS_CA", "INGRESS_NATS_CERT", "INGRESS_NATS_KEY":
				value = "/nowhere/" + strings.NewReplacer("/", "", "\n", "").Replace(value)
			}
			t.Setenv(name, value)
		}
		_, err := Load()
		if err == nil {
			return
		}
		message := err.Error()
		if !strings.HasPrefix(message, "INGRESS_") {
			t.Errorf("the message does not begin with a variable: %q", message)
		}
		if strings.Contains(message, "\n") {
			t.Errorf("the message has several lines: %q", message)
		}
		if strings.Contains(message, secret) || strings.Contains(message, testSecret) {
			t.Errorf("the message tells a secret: %q", message)
		}
	})
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		bytes int64
		print string // "" if it is the text
	}{
		{"1B", 1, ""},
		{"65537B", 65537, ""},
		{"1KiB", 1 << 10, ""},
		{"896KiB", 896 << 10, ""},
		{"8MiB", 8 << 20, ""},
		{"3GiB", 3 << 30, ""},
		{"5TiB", 5 << 40, ""},
		{"2048TiB", 2 << 50, ""},
		{"1", 1, "1B"},
		{"65536", 65536, "64KiB"},
		{"8388608", 8 << 20, "8MiB"},
		{"1024KiB", 1 << 20, "1MiB"},
		{"1025KiB", 1025 << 10, ""},
		{"8388607TiB", 8388607 << 40, ""},
		{"9223372036854775807", math.MaxInt64, "9223372036854775807B"},
	} {
		got, err := ParseSize(c.text)
		if err != nil || int64(got) != c.bytes {
			t.Errorf("%q is %d, %v; want %d", c.text, got, err, c.bytes)
		}
		want := c.print
		if want == "" {
			want = c.text
		}
		if got.String() != want {
			t.Errorf("%q prints as %v, want %s", c.text, got, want)
		}
	}
	for _, text := range []string{
		"", "B", "KiB", "0", "0MiB", "-1", "-1MiB", "8MB", "8M", "8mib", "8 MiB", " 8MiB", "8MiB ", "8.5MiB", "1e6", "0x10",
		"8388608TiB", "9223372036854775808", "9007199254740992KiB", "8MiBMiB", "1_000",
	} {
		if size, err := ParseSize(text); err == nil {
			t.Errorf("%q is read as %v", text, size)
		}
	}
	if got := Size(0).String(); got != "0B" {
		t.Errorf("0 prints as %s", got)
	}
}

// FuzzSize: what is read can be printed and read again.
func FuzzSize(f *testing.F) {
	for _, seed := range []string{"1", "8MiB", "1025KiB", "9223372036854775807B", "8388608TiB", "MiB", "+5KiB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := ParseSize(text)
		if err != nil {
			return
		}
		if size <= 0 {
			t.Errorf("%q is read as %d", text, size)
		}
		if again, err := ParseSize(size.String()); err != nil || again != size {
			t.Errorf("%q prints as %v, which is read as %v, %v", text, size, again, err)
		}
	})
}
