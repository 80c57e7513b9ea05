package ingest

import (
	"errors"
	"io"
	"math/bits"
	"net/http"
	"sync"
	"time"
)

// limitBody bounds how long the body may take. Refused requests need it too:
// net/http reads what is left of a body before it sends the answer.
func limitBody(w http.ResponseWriter) {
	setBodyDeadline(w, time.Now().Add(BodyTimeout))
}

func setBodyDeadline(w http.ResponseWriter, at time.Time) {
	// A ResponseWriter that does not support it, such as a test's, has its own rules.
	_ = http.NewResponseController(w).SetReadDeadline(at)
}

// discardBody frees what HTTP/2 has buffered of a refused request's body. Over
// HTTP/1 no more than 4 KiB are buffered, and Close would read the rest.
func discardBody(r *http.Request) {
	if r.ProtoMajor == 2 {
		_ = r.Body.Close()
	}
}

// readBody reads the whole body, no longer than MaxBody and the deadline allow.
// The body is valid until u is released.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, u *upload) (body []byte, err error) {
	defer h.begin(r.Context(), stageRead).end(&err)
	body, err = h.fill(u, http.MaxBytesReader(w, r.Body, h.cfg.MaxBody), r.ContentLength)
	if !h.inflight.settle(u) {
		return nil, unavailable.because("too_much_in_flight")
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge.because("body")
	}
	if err != nil {
		return nil, badRequest.because("body_cut_short").telling("the body did not arrive whole and in time")
	}
	// Otherwise net/http would take the connection for dead while the event is stored.
	setBodyDeadline(w, time.Time{})
	return body, nil
}

var errShed = errors.New("shed")

// fill reads length bytes into u's buffer or, if length is negative, all that
// comes. It returns errShed, or any other error, if u was shed.
func (h *Handler) fill(u *upload, from io.Reader, length int64) ([]byte, error) {
	most := length
	if length < 0 {
		most = h.cfg.MaxBody + 1 // one more than from gives
	}
	u.buffer = takeBuffer(firstBuffer)
	for n := int64(0); n < most; {
		size := int64(len(*u.buffer))
		// If more is to come, a small rest of the buffer is not worth a read.
		if n == size || length > size && n > size/2 {
			size = nextBuffer(size, most)
			if !h.inflight.grow(u, min(size, h.cfg.MaxBody)) {
				return nil, errShed
			}
			smaller := u.buffer
			u.buffer = takeBuffer(int(size))
			copy(*u.buffer, *smaller)
			giveBuffer(smaller)
		}
		read, err := from.Read((*u.buffer)[n:min(size, most)])
		u.arrived.Add(int64(read))
		if n == 0 && read > 0 && !h.inflight.grow(u, firstBuffer) {
			return nil, errShed
		}
		n += int64(read)
		switch {
		case err == io.EOF && length < 0:
			return (*u.buffer)[:n], nil
		case err != nil && n < most:
			return nil, err
		}
	}
	return (*u.buffer)[:most], nil
}

// firstBuffer is the size in bytes of the buffer that a body begins with.
const firstBuffer = 4 << 10

// nextBuffer returns the size of the buffer that follows one of size bytes: four
// times as much, or less if that is enough for a body of most bytes.
func nextBuffer(size, most int64) int64 {
	switch next := 4 * size; {
	case next > smallBody:
		return min(next, most)
	case next/2 >= most:
		return next / 2
	default:
		return next
	}
}

// buffers keeps the memory of small bodies from one request to the next, by
// size: firstBuffer, twice that, and so on to smallBody.
var buffers [5]sync.Pool

// poolOf returns the pool of buffers of a size, or nil.
func poolOf(size int) *sync.Pool {
	if size > smallBody {
		return nil
	}
	return &buffers[bits.Len(uint(size-1)/firstBuffer)]
}

func takeBuffer(size int) *[]byte {
	if pool := poolOf(size); pool != nil {
		if b, ok := pool.Get().(*[]byte); ok {
			return b
		}
	}
	b := make([]byte, size)
	return &b
}

func giveBuffer(b *[]byte) {
	if pool := poolOf(len(*b)); pool != nil {
		pool.Put(b)
	}
}
