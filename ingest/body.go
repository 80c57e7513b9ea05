package ingest

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// limitBody sets the body's read deadline. Rejected requests need it too, because
// net/http reads the rest of a body before it sends the response.
func limitBody(w http.ResponseWriter) {
	setBodyDeadline(w, time.Now().Add(BodyTimeout))
}

func setBodyDeadline(w http.ResponseWriter, at time.Time) {
	// Some ResponseWriters, such as those of tests, do not support deadlines.
	_ = http.NewResponseController(w).SetReadDeadline(at)
}

// discardBody frees what HTTP/2 has buffered of a rejected request's body. Over
// HTTP/1 at most 4 KiB are buffered, and Close would read the rest of the body.
func discardBody(r *http.Request) {
	if r.ProtoMajor == 2 {
		_ = r.Body.Close()
	}
}

// readBody reads the whole body, within MaxBody and the read deadline. The
// result is valid until u is released.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, u *upload) ([]byte, error) {
	body, err := h.fill(u, http.MaxBytesReader(w, r.Body, h.cfg.MaxBody), r.ContentLength)
	_, isTooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case !h.inflight.complete(u):
		return nil, reject(unavailable, "too_much_in_flight")
	case isTooLarge:
		return nil, reject(tooLarge, "body")
	case err != nil:
		return nil, reject(badRequest, "body_cut_short").withDetail("the body did not arrive whole and in time")
	}
	// Past the deadline, net/http would cancel the request while it is stored.
	setBodyDeadline(w, time.Time{})
	return body, nil
}

var errShed = errors.New("shed")

// fill reads length bytes into u's buffer, or up to EOF if length is negative.
// If u is shed, it returns errShed or the error of the interrupted Read.
func (h *Handler) fill(u *upload, from io.Reader, length int64) ([]byte, error) {
	limit := length
	if length < 0 {
		limit = h.cfg.MaxBody + 1 // from fails before that
	}
	u.buffer = getBuffer(firstBuffer)
	for n := int64(0); n < limit; {
		size := int64(len(*u.buffer))
		nearly := size < min(limit, smallBody) && n > size/4*3 // so that no read is small
		if n == size || nearly {
			if size *= 4; size > smallBody {
				size = min(size, limit)
			}
			if !h.inflight.grow(u, min(size, h.cfg.MaxBody)) {
				return nil, errShed
			}
			smaller := u.buffer
			u.buffer = getBuffer(int(size))
			copy(*u.buffer, *smaller)
			putBuffer(smaller)
		}
		read, err := from.Read((*u.buffer)[n:min(size, limit)])
		u.arrived.Add(int64(read))
		if n == 0 && read > 0 && !h.inflight.grow(u, firstBuffer) {
			return nil, errShed
		}
		n += int64(read)
		switch {
		case err == io.EOF && length < 0:
			return (*u.buffer)[:n], nil
		case err != nil && n < limit:
			return nil, err
		}
	}
	return (*u.buffer)[:limit], nil
}

// firstBuffer is the initial size of a body's buffer, in bytes. The next ones are
// four times as large, or as large as the body can be.
const firstBuffer = 4 << 10

// buffers pools the buffers of small bodies by their size.
var buffers = map[int]*sync.Pool{firstBuffer: {}, 4 * firstBuffer: {}, smallBody: {}}

func getBuffer(size int) *[]byte {
	if pool := buffers[size]; pool != nil {
		if b, ok := pool.Get().(*[]byte); ok {
			return b
		}
	}
	b := make([]byte, size)
	return &b
}

func putBuffer(b *[]byte) {
	if pool := buffers[len(*b)]; pool != nil {
		pool.Put(b)
	}
}
