package schema_test

import (
	"math/rand/v2"
	"testing"

	"versive-ingress/schema"
)

func sequences(t *testing.T, text string) schema.Sequences {
	t.Helper()
	var s schema.Sequences
	if err := s.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSequences(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{sequences(t, "5,9-12").String(), "5, 9-12"},
		{sequences(t, "9-12,5,6,8,7").String(), "5-12"},
		{sequences(t, "1-3,7-9,2-8").String(), "1-9"},
		{sequences(t, "1-10").Minus(sequences(t, "1,4-5,10-20")).String(), "2-3, 6-9"},
		{sequences(t, "1-3,8-9").Union(sequences(t, "4,20")).String(), "1-4, 8-9, 20"},
		{sequences(t, "1-3,8-9").Within(3, 8).String(), "3, 8"},
		{schema.SequencesOf([]uint64{0, 7, 2, 3}).String(), "2-3, 7"},
		{schema.SequenceRange(5, 4).String(), ""},
		{sequences(t, "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33,35,37,39,41,43").String(), "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39 and 2 more ranges"},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
	for _, text := range []string{"a", "1-", "-1", "1,,2"} {
		var s schema.Sequences
		if s.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is taken for sequences %v", text, s)
		}
	}
}

// TestSequencesAgree compares the operations with those on plain sets.
func TestSequencesAgree(t *testing.T) {
	const most = 40
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() (s schema.Sequences, plain [most + 20]bool) {
		for range random.IntN(12) {
			first := 1 + random.Uint64N(most)
			last := first + random.Uint64N(8)
			s.Add(first, last)
			for i := first; i <= last; i++ {
				plain[i] = true
			}
		}
		return s, plain
	}
	for range 2000 {
		a, plainA := draw()
		b, plainB := draw()
		union, minus, both, within := a.Union(b), a.Minus(b), a.Intersect(b), a.Within(10, 20)
		for i := range uint64(len(plainA)) {
			if a.Has(i) != plainA[i] || union.Has(i) != (plainA[i] || plainB[i]) || minus.Has(i) != (plainA[i] && !plainB[i]) ||
				both.Has(i) != (plainA[i] && plainB[i]) || within.Has(i) != (plainA[i] && i >= 10 && i <= 20) {
				t.Fatalf("%v and %v: wrong at %d: union %v, difference %v, intersection %v, within %v", a, b, i, union, minus, both, within)
			}
		}
		var again schema.Sequences
		text, err := a.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalText(text); err != nil || again.Minus(a).Len()+a.Minus(again).Len() != 0 {
			t.Fatalf("%v is read as %v (%v)", a, again, err)
		}
	}
}
