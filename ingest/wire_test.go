package ingest_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"strings"
	"testing"
)

// targetRows are requests with another path, method or version of HTTP.
func targetRows(t testing.TB) []row {
	const notFound, notAllowed = "404 not_found path", "405 method_not_allowed method"
	var rows []row
	add := func(line, want string) {
		id := "msg_target_" + itoa(len(rows))
		rows = append(rows, row{line, signed(t, id, event("")).to(line), want})
	}
	for _, method := range []string{"GET", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "post", "POSTPOST", "PRI"} {
		add(method+" "+webhookPath+" HTTP/1.1", notAllowed)
	}
	for _, path := range []string{
		"/", "/webhooks", webhookPath + "/", webhookPath + "/x", webhookPath + "x", "/" + webhookPath, "/webhooks//versive",
		"/webhooks/./versive", "/webhooks/../webhooks/versive", "/WEBHOOKS/VERSIVE", webhookPath + "%00", webhookPath + "%20",
		webhookPath + "%2F", webhookPath + "%3Fx", webhookPath + ";x", webhookPath + "#x", "/metrics", "/livez", "/readyz",
		"http://ingress.test/", "http://ingress.test" + webhookPath + "/",
	} {
		add("POST "+path+" HTTP/1.1", notFound)
	}
	add("GET /unknown HTTP/1.1", notFound)
	add("CONNECT ingress.test:443 HTTP/1.1", notFound)
	add("OPTIONS * HTTP/1.1", notFound)

	// Only the decoded path of the target is compared.
	add("POST /webhooks/%76ersive HTTP/1.1", "200 stored")
	add("POST /webhooks%2Fversive HTTP/1.1", "200 stored")
	add("POST "+webhookPath+"? HTTP/1.1", "200 stored")
	add("POST "+webhookPath+"?id=msg_other HTTP/1.1", "200 stored")
	add("POST http://elsewhere.test"+webhookPath+" HTTP/1.1", "200 stored")
	add("POST https://user:password@elsewhere.test"+webhookPath+" HTTP/1.1", "200 stored")
	add("POST "+webhookPath+" HTTP/1.0", "200 stored")

	// net/http answers these itself.
	add("POST "+webhookPath, "400")
	add("POST /webhooks/%zz HTTP/1.1", "400")
	add("POST /webhooks/versive\x00 HTTP/1.1", "400")
	add("POST  "+webhookPath+" HTTP/1.1", "400")
	add("PO(ST "+webhookPath+" HTTP/1.1", "400")
	add("POST webhooks/versive HTTP/1.1", "400")
	add("POST "+webhookPath+" HTTP/3.0", "505")
	add("POST "+webhookPath+" HTTP/x", "400")
	add("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400") // TLS

	r := signed(t, "msg_target", event(""))
	rows = append(rows,
		row{"no host", r.without("Host"), "400"},
		row{"two hosts", r.plus("Host: elsewhere.test"), "400"},
		row{"a header without a colon", r.plus("Svix-Extra"), "400"},
		row{"a header name with a space", r.plus("Svix-Extra : x"), "400"},
		row{"a header name with a wildcard", r.plus("Svix(Extra): x"), "400"},
		row{"an unknown expectation", r.plus("Expect: 200-ok"), "417"},
	)
	return rows
}

// framingRows are requests with a wrong, malformed or unusual body length.
func framingRows(t testing.TB) []row {
	const cut, tooLarge = "400 bad_request body_cut_short", "413 too_large "
	var rows []row
	add := func(name string, request request, want string) {
		rows = append(rows, row{name, request, want})
	}
	r := signed(t, "msg_framing", event(""))
	length := func(values ...string) request {
		r := r.without("Content-Length")
		for _, v := range values {
			r = r.plus("Content-Length: " + v)
		}
		return r
	}
	n := itoa(len(r.body))

	add("content length beyond the body", length(itoa(len(r.body)+1)).cutOff(), cut)
	add("content length far beyond the body", length("200000").cutOff(), cut)
	add("content length and no body", length("1").sending("").cutOff(), cut)
	add("content length over the limit", length(itoa(maxBody+1)), tooLarge+"content_length")
	add("content length over the limit, all of it sent", signed(t, "msg_framing", strings.Repeat("x", maxBody+1)), tooLarge+"content_length")
	add("the largest content length", length("9223372036854775807"), tooLarge+"content_length")
	add("no length at all", length(), "401 unauthorized signature")
	for _, values := range [][]string{
		{"-1"},
		{"-0"},
		{"+" + n},
		{"0x10"},
		{"1e3"},
		{n + ".0"},
		{"many"},
		{""},
		{n + ", " + n},
		{n + " " + n},
		{"9223372036854775808"},
		{n, "1"},
		{"1", n},
		{n, ""},
	} {
		add("content length "+strings.Join(values, " and "), length(values...), "400")
	}

	c := r.chunked()
	add("chunks over the limit", signed(t, "msg_framing", strings.Repeat("x", maxBody+1)).chunked(), tooLarge+"body")
	add("chunks cut off", c.sending(strings.TrimSuffix(c.body, "0\r\n\r\n")).cutOff(), cut)
	add("chunks cut off within the last", c.sending(c.body[:len(c.body)-10]).cutOff(), cut)
	add("chunk of another length", c.sending("1\r\nabc\r\n0\r\n\r\n"), cut)
	add("chunk of no length", c.sending("\r\nabc\r\n0\r\n\r\n"), cut)
	add("chunk of negative length", c.sending("-1\r\nabc\r\n0\r\n\r\n"), cut)
	add("chunk length that is not hexadecimal", c.sending("zz\r\nabc\r\n0\r\n\r\n"), cut)
	add("chunk length that overflows", c.sending("ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"), cut)
	add("chunk with an endless extension", c.sending("1;"+strings.Repeat("x", 100_000)+"\r\na\r\n0\r\n\r\n"), cut)
	add("chunks tampered with", c.sending(strings.Replace(c.body, "event_type", "event_typo", 1)), "401 unauthorized signature")
	add("trailers without end", c.sending(strings.TrimSuffix(c.body, "\r\n")+strings.Repeat("X: y\r\n", 10_000)+"\r\n"), cut)
	for _, encoding := range []string{"identity", "gzip", "gzip, chunked", "chunked, chunked", "chunked, identity", "x"} {
		add("transfer encoding "+encoding, c.with("Transfer-Encoding", encoding), "501")
	}
	add("two transfer encodings", c.plus("Transfer-Encoding: identity"), "501")
	add("transfer encoding in HTTP/1.0", c.to("POST "+webhookPath+" HTTP/1.0"), "401 unauthorized signature")

	// Unusual but valid.
	add("as long as the limit", signed(t, "msg_framing_1", eventOf(maxBody)), "200 stored")
	add("as long as the limit, chunked", signed(t, "msg_framing_2", eventOf(maxBody)).chunked(), "200 stored")
	add("chunked", signed(t, "msg_framing_3", r.body).chunked(), "200 stored")
	add("the same content length twice", signed(t, "msg_framing_4", r.body).plus("Content-Length: "+n), "200 stored")
	add("chunked with a content length", signed(t, "msg_framing_5", r.body).chunked().plus("Content-Length: 1"), "200 stored")
	add("a chunk with an extension", signed(t, "msg_framing_6", r.body).chunked().
		sending(strings.Replace(chunk(r.body), "\r\n", ";x=y\r\n", 1)+"0\r\n\r\n"), "200 stored")
	return rows
}

// encodingRows are requests with encoded bodies. Their signatures are valid unless
// the name states otherwise.
func encodingRows(t testing.TB) []row {
	const unsupported = "415 unsupported_encoding content_encoding"
	var gzipped, deflated bytes.Buffer
	g, z := gzip.NewWriter(&gzipped), zlib.NewWriter(&deflated)
	for _, w := range []interface {
		Write([]byte) (int, error)
		Close() error
	}{g, z} {
		if _, err := w.Write([]byte(event(""))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	encoded := func(encoding, body string) request {
		return signed(t, "msg_encoded_"+encoding, body).plus("Content-Encoding: " + encoding)
	}
	plain := event("")
	return []row{
		{"gzip", encoded("gzip", gzipped.String()), unsupported},
		{"deflate", encoded("deflate", deflated.String()), unsupported},
		{"br", encoded("br", plain), unsupported},
		{"zstd", encoded("zstd", plain), unsupported},
		{"gzip in capitals", encoded("GZIP", gzipped.String()), unsupported},
		{"identity and gzip", encoded("identity, gzip", plain), unsupported},
		{"identity and gzip on two lines", encoded("identity", plain).plus("Content-Encoding: gzip"), unsupported},
		{"unknown encoding", encoded("x", plain), unsupported},
		{"unannounced gzip", signed(t, "msg_gzipped", gzipped.String()), "202 quarantined malformed"},
		{"unannounced gzip, unsigned", signed(t, "msg_gzipped", gzipped.String()).with("Svix-Signature", "v1,AAAA"), "401 unauthorized signature"},
		{"identity", encoded("identity", plain), "200 stored"},
		{"identity in capitals", encoded("Identity", plain), "200 stored"},
		{"no encoding", encoded("", plain), "200 stored"},
		{"another content type", signed(t, "msg_type", plain).with("Content-Type", "text/html; charset=utf-16"), "200 stored"},
		{"no content type", signed(t, "msg_no_type", plain).without("Content-Type"), "200 stored"},
	}
}
