package ingest_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Each hostile request gets the answer of its row, and only authentic ones are
// stored. The rows are in files named after their subjects.
func TestHostile(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	checkAll(t, newHarness(t, s), s, hostileRows(t))
}

func hostileRows(t testing.TB) []row {
	return slices.Concat(signatureRows(t), headerSetRows(t), timestampRows(t), idRows(t),
		targetRows(t), framingRows(t), encodingRows(t), bodyRows(t))
}

// headerReasons are the reasons of rejections that depend on headers alone.
var headerReasons = []string{
	"path", "method", "content_encoding", "missing_header", "repeated_header", "id", "signature_length",
	"timestamp_malformed", "timestamp_too_old", "timestamp_too_new", "content_length",
}

// The body of a request that its headers rule out is not read.
func TestRejectedUnread(t *testing.T) {
	t.Parallel()
	unused := fake{} // panics when it is called
	seen := map[string]bool{}
	for _, row := range hostileRows(t) {
		words := strings.Fields(row.want)
		if len(words) < 3 || !slices.Contains(headerReasons, words[2]) {
			continue
		}
		seen[words[2]] = true
		t.Run(row.name, func(t *testing.T) { rejectedUnread(t, newHarness(t, unused), row.request, row.want) })
	}
	for _, reason := range headerReasons {
		if !seen[reason] {
			t.Errorf("no row is rejected for %s", reason)
		}
	}

	t.Run("draining", func(t *testing.T) {
		r := newHarness(t, unused)
		r.handler.Drain()
		rejectedUnread(t, r, signed(t, "msg_1", event("")), "503 unavailable shutting_down")
	})
}

func rejectedUnread(t *testing.T, r *harness, request request, want string) {
	t.Helper()
	parsed, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request.head())))
	if err != nil {
		t.Fatal(err)
	}
	parsed.Body = unreadable{t}
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, parsed)
	lines, _ := r.logs.take(t)
	a := answer{w.Code, w.Header(), w.Body.String()}
	if len(lines) != 1 || a.summary(lines[0]) != want {
		t.Errorf("got %d, logged %+v; want %q", w.Code, lines, want)
	}
}

// unreadable is a body that must not be read.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, io.EOF
}

func (u unreadable) Close() error { return nil }

func unix(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// signatureRows are requests with an unusual or wrong signature, in both header
// sets.
func signatureRows(t testing.TB) []row {
	const forged = "401 unauthorized signature"
	var rows []row
	for _, prefix := range []string{"Svix", "Webhook"} {
		good := func(name string) request {
			return signedBy(t, prefix, secret, "msg_"+prefix+"_"+name, now, event(""))
		}
		r := good("1")
		value := sign(t, secret, r.id, now, event("")) // "v1,…="
		signature := func(value string) request { return r.with(prefix+"-Signature", value) }
		add := func(name string, request request, want string) {
			rows = append(rows, row{prefix + ": " + name, request, want})
		}

		add("tampered body", r.sending(strings.Replace(r.body, "interview_1", "interview_2", 1)), forged)
		add("body with a line break added", r.with("Content-Length", itoa(len(r.body)+1)).sending(r.body+"\n"), forged)
		add("body without its last byte", r.with("Content-Length", itoa(len(r.body)-1)), forged)
		add("no body", r.with("Content-Length", "0").sending(""), forged)
		add("tampered id", r.with(prefix+"-Id", "msg_other"), forged)
		add("id in capitals", r.with(prefix+"-Id", strings.ToUpper(r.id)), forged)
		add("tampered timestamp", r.with(prefix+"-Timestamp", unix(now.Add(time.Second))), forged)
		add("id and timestamp divided elsewhere", r.with(prefix+"-Id", r.id+"."+unix(now)[:1]).with(prefix+"-Timestamp", unix(now)[1:]), "400 bad_request id")
		add("wrong secret", signedBy(t, prefix, otherSecret, r.id, now, r.body), forged)
		add("signature of another id", signature(sign(t, secret, "msg_other", now, r.body)), forged)
		add("signature of another time", signature(sign(t, secret, r.id, now.Add(-time.Second), r.body)), forged)
		add("signature of another body", signature(sign(t, secret, r.id, now, r.body+" ")), forged)
		add("truncated signature", signature(value[:len(value)-8]), forged)
		add("signature without padding", signature(strings.TrimRight(value, "=")), forged)
		add("empty signature of version 1", signature("v1,"), forged)
		add("version v1a", signature("v1a"+value[2:]), forged)
		add("version v2", signature("v2"+value[2:]), forged)
		add("version V1", signature("V1"+value[2:]), forged)
		add("empty version", signature(value[2:]), forged)
		add("signature without a comma", signature("v1"+value[3:]), forged)
		add("bare signature", signature(value[3:]), forged)
		add("comma alone", signature(","), forged)
		add("signatures divided by commas", signature("v1,AAAA,"+value), forged)
		add("signature in quotes", signature(`"`+value+`"`), forged)
		add("the secret for a signature", signature("v1,"+secret), forged)
		add("overlong signature header", signature(strings.Repeat(value+" ", 90)), "400 bad_request signature_length")

		// The svix library accepts these, and so does the handler.
		add("signature among wrong ones", good("among").with(prefix+"-Signature", "v1a,AAAA v1,AAAA= x "+
			sign(t, secret, good("among").id, now, r.body)+" v1,BBBB="), "200 stored")
		add("signature with a third part", good("third").with(prefix+"-Signature",
			sign(t, secret, good("third").id, now, r.body)+",more"), "200 stored")
	}
	return rows
}

// headerSetRows are requests whose signing headers are incomplete, repeated or of
// both sets. The svix library uses the svix-* set if it is complete, and otherwise
// the webhook-* set.
func headerSetRows(t testing.TB) []row {
	const missing = "401 unauthorized missing_header"
	body := event("")
	var rows []row
	add := func(name string, request request, want string) {
		rows = append(rows, row{name, request, want})
	}
	for _, prefix := range []string{"Svix", "Webhook"} {
		r := signedBy(t, prefix, secret, "msg_set", now, body)
		for _, header := range []string{"-Id", "-Timestamp", "-Signature"} {
			name := prefix + header
			add(name+" missing", r.without(name), missing)
			add(name+" empty", r.with(name, ""), missing)
			add(name+" under a misspelt name", r.without(name).plus(strings.Replace(name, "-", "_", 1)+": x"), missing)
			add(name+" twice", r.plus(name+": x"), "400 bad_request repeated_header")
			add(name+" twice, the first empty", r.with(name, "").plus(name+": x"), missing)
		}
	}

	svix := signedBy(t, "Svix", secret, "msg_svix", now, body)
	webhook := func(id string) request { return signedBy(t, "Webhook", secret, id, now, body) }
	add("no signature at all", svix.without("Svix-Id").without("Svix-Timestamp").without("Svix-Signature"), missing)
	for i, of := range []request{
		svix.without("Svix-Signature"), svix.without("Svix-Timestamp"), svix.without("Svix-Id"),
	} {
		one := [...]string{"Webhook-Signature: ", "Webhook-Timestamp: ", "Webhook-Id: "}[i] +
			[...]string{sign(t, secret, "msg_svix", now, body), unix(now), "msg_svix"}[i]
		add("two of svix, one of webhook: "+one[:12], of.plus(one), missing)
		of.header = slices.Clone(of.header)
		for k, line := range of.header { // with the two sets swapped
			of.header[k] = strings.Replace(line, "Svix-", "Webhook-", 1)
		}
		add("two of webhook, one of svix: "+one[:12], of.plus(strings.Replace(one, "Webhook-", "Svix-", 1)), missing)
	}
	add("a stray svix-id beside a signed webhook set", webhook("msg_stray_1").plus("Svix-Id: msg_unsigned"), "200 stored")
	add("two stray svix headers beside a signed webhook set", webhook("msg_stray_2").plus("Svix-Id: msg_unsigned", "Svix-Timestamp: 1"), "200 stored")
	add("an empty svix-signature beside a signed webhook set", webhook("msg_stray_3").plus("Svix-Id: msg_unsigned", "Svix-Timestamp: 1", "Svix-Signature:"), "200 stored")
	add("repeated stray svix-id beside a signed webhook set", webhook("msg_stray_4").plus("Svix-Id: a", "Svix-Id: b"), "200 stored")
	add("a bogus svix set beside a signed webhook set", webhook("msg_bogus").plus("Svix-Id: msg_bogus", "Svix-Timestamp: "+unix(now), "Svix-Signature: v1,AAAA"), "401 unauthorized signature")
	add("a bogus webhook set beside a signed svix set", signed(t, "msg_beside", body).plus("Webhook-Id: msg_unsigned", "Webhook-Timestamp: 1", "Webhook-Signature: v1,AAAA"), "200 stored")
	add("the svix signature under the webhook id", svix.without("Svix-Id").plus("Webhook-Id: msg_svix"), missing)
	add("the signature in the query", svix.without("Svix-Signature").to("POST "+webhookPath+"?svix-signature=v1,AAAA HTTP/1.1"), missing)
	add("the signature in a cookie", svix.without("Svix-Signature").plus("Cookie: Svix-Signature=v1,AAAA"), missing)
	trailer := svix.chunked().without("Svix-Signature").plus("Trailer: Svix-Signature")
	add("the signature in a trailer", trailer.sending(strings.TrimSuffix(trailer.body, "\r\n")+
		"Svix-Signature: "+sign(t, secret, "msg_svix", now, body)+"\r\n\r\n"), missing)
	lower := signed(t, "msg_lower", body)
	for i := range lower.header {
		name, value, _ := strings.Cut(lower.header[i], ":")
		lower.header[i] = strings.ToLower(name) + ":" + value
	}
	add("header names in lower case", lower, "200 stored")
	return rows
}
