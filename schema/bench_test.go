package schema_test

import (
	"strings"
	"testing"

	"versive-ingress/schema"
)

// BenchmarkNormalize is the usual case: 8 KiB, most of it a conversation of 40
// turns.
func BenchmarkNormalize(b *testing.B) {
	benchmarkNormalize(b, conversation(`{"role":"assistant","content":"`+strings.Repeat("Thanks, go on. ", 11)+`"}`, 40))
}

// BenchmarkNormalizeSparse is a hostile case: turns without members cost the
// most for each byte of the body.
func BenchmarkNormalizeSparse(b *testing.B) {
	benchmarkNormalize(b, conversation(`{}`, 2_700))
}

func benchmarkNormalize(b *testing.B, body []byte) {
	if _, err := schema.Normalize(svixID, body); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schema.Normalize(svixID, body); err != nil {
			b.Fatal(err)
		}
	}
}
