package schema_test

import (
	"bytes"
	"fmt"
	"runtime"
	"sort"
	"strings"
	"testing"
	"unicode"
	"weak"

	"versive-ingress/schema"
)

// TestNesting: 10,000 levels are accepted and 10,001 are not, of arrays and of
// objects.
func TestNesting(t *testing.T) {
	const inInterview = 2 // the levels around a member of the interview
	nested := func(opening, closing string, levels int) []byte {
		n := levels - inInterview
		return body("", `,"x":`+strings.Repeat(opening, n)+"0"+strings.Repeat(closing, n), "")
	}
	for _, brackets := range [][2]string{{"[", "]"}, {`{"":`, "}"}} {
		message := normalize(t, nested(brackets[0], brackets[1], 10_000))
		if again := normalize(t, message.Data); !bytes.Equal(message.Data, again.Data) {
			t.Error("not idempotent")
		}
		_, err := schema.Normalize(svixID, nested(brackets[0], brackets[1], 10_001))
		if e := refusal(t, err); e.Reason != schema.Malformed {
			t.Errorf("got %v, want malformed", e)
		}
	}
}

// TestNestingWithoutEnd: deep nesting is refused without exhausting the stack.
func TestNestingWithoutEnd(t *testing.T) {
	for _, opening := range []string{"[", `{"x":`, `{"interview":`, `{"interview":{"parsed_conversation_json":[`} {
		_, err := schema.Normalize(svixID, []byte(strings.Repeat(opening, 1<<20)))
		if e := refusal(t, err); e.Reason != schema.Malformed {
			t.Errorf("%s: got %v, want malformed", opening, e)
		}
	}
}

// TestGrowth finds the smallest number of empty turns that is refused.
func TestGrowth(t *testing.T) {
	refused := func(n int) bool {
		_, err := schema.Normalize(svixID, conversation(`{}`, n))
		return err != nil
	}
	first := sort.Search(10_000, refused)

	last := conversation(`{}`, first-1)
	grown := len(normalize(t, last).Data) - len(last)
	turn := len(`{"role":"","content":""}`) - len(`{}`)
	if grown > schema.MaxGrowth || grown+turn <= schema.MaxGrowth {
		t.Errorf("%d turns grow by %d, want at most %d and less than %d below", first-1, grown, schema.MaxGrowth, turn)
	}
	const problem = " lacks so many members that its canonical form is over 65536 bytes longer"
	_, err := schema.Normalize(svixID, conversation(`{}`, first))
	checkRefusal(t, err, schema.Invalid, "body"+problem)
	// Larger numbers are refused before the rest of the body is written.
	for _, n := range []int{first + 100, 2 * first, 10 * first, 100 * first} {
		_, err = schema.Normalize(svixID, conversation(`{}`, n))
		checkRefusal(t, err, schema.Invalid, "/interview/parsed_conversation_json"+problem)
	}
}

// TestGrowthIsTheLeastOfProblems: if a body that would grow too much has another
// problem, the other one is reported.
func TestGrowthIsTheLeastOfProblems(t *testing.T) {
	sparse := conversation(`{}`, 10_000)
	_, err := schema.Normalize(svixID, sparse[:len(sparse)-1])
	if e := refusal(t, err); e.Reason != schema.Malformed {
		t.Errorf("truncated: got %v", e)
	}
	_, err = schema.Normalize(svixID, bytes.Replace(sparse, []byte("completed"), []byte("started"), 1))
	if e := refusal(t, err); e.Reason != schema.UnsupportedType {
		t.Errorf("other type: got %v", e)
	}
	_, err = schema.Normalize(svixID, bytes.Replace(sparse, []byte(`[{}`), []byte(`[7,{}`), 1))
	checkRefusal(t, err, schema.Invalid, "/interview/parsed_conversation_json/0 is a number, want an object")
}

// TestGrowthCostsLittle: a body that is refused for its growth is not written
// first. It would be eight times as long, and need more while the buffer grows.
func TestGrowthCostsLittle(t *testing.T) {
	sparse := conversation(`{}`, 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := schema.Normalize(svixID, sparse)
	runtime.ReadMemStats(&after)
	if e := refusal(t, err); e.Reason != schema.Invalid {
		t.Errorf("got %v, want invalid", e)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > uint64(6*len(sparse)) {
		t.Errorf("%d bytes allocated for a body of %d", n, len(sparse))
	}
}

// TestNormalizeLetsGoOfTheBody: the parsers in the pool refer to no body.
func TestNormalizeLetsGoOfTheBody(t *testing.T) {
	input := conversation(`{"role":"user","content":"Hello"}`, 1_000)
	message, alive := normalize(t, input), weak.Make(&input[0])
	input = nil
	runtime.GC()
	if alive.Value() != nil {
		t.Error("the body is still alive")
	}
	runtime.KeepAlive(message)
}

// TestManyMembers: any number of unknown members is kept.
func TestManyMembers(t *testing.T) {
	var unknown strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&unknown, `,"%d":0`, i)
	}
	message := normalize(t, body("", unknown.String(), ""))
	if !bytes.Contains(message.Data, []byte(unknown.String()+`},"study"`)) {
		t.Error("unknown members are missing or in another order")
	}
}

// TestRolesAreLoweredOnce: no letter's lower case has another lower case, so
// that a canonical role stays as it is.
func TestRolesAreLoweredOnce(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		once := strings.ToLower(string(r))
		if twice := strings.ToLower(once); twice != once {
			t.Errorf("%U becomes %q, then %q", r, once, twice)
		}
	}
}
