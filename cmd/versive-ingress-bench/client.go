package main

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"time"
)

// A client is one keep-alive connection. It is written for this bench because
// the load shares the machine with what it measures: net/http's client takes
// three times as much processor time, twice that of the whole plain handler,
// and what it takes, the handler does not get. Requests are made beforehand and go out in one
// writev; of an answer only status and length are read. It takes answers with
// a Content-Length alone, which is what small answers of net/http have.
type client struct {
	address string
	conn    net.Conn
	until   time.Time // deadline of every answer: one timer, not one a request
	request [2][]byte
	buffer  [4 << 10]byte // for a whole answer
}

func (c *client) connect() error {
	conn, err := net.DialTimeout("tcp", c.address, 5*time.Second)
	if err != nil {
		return err
	}
	c.conn = conn
	return conn.SetDeadline(c.until)
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// do posts e and returns the status of the answer. After an error the next
// call connects anew.
func (c *client) do(e *event) (status int, err error) {
	if c.conn == nil {
		if err := c.connect(); err != nil {
			return 0, err
		}
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.request = [2][]byte{e.head, e.body}
	buffers := net.Buffers(c.request[:])
	if _, err := buffers.WriteTo(c.conn); err != nil {
		return 0, err
	}
	return c.readAnswer()
}

var (
	endOfHeaders  = []byte("\r\n\r\n")
	contentLength = []byte("\r\nContent-Length: ")
	closing       = []byte("\r\nConnection: close")
)

func (c *client) readAnswer() (status int, err error) {
	read, end := 0, -1
	for end < 0 {
		if read == len(c.buffer) {
			return 0, fmt.Errorf("headers of an answer over %d bytes", read)
		}
		n, err := c.conn.Read(c.buffer[read:])
		if err != nil {
			return 0, err
		}
		read += n
		end = bytes.Index(c.buffer[:read], endOfHeaders)
	}
	head := c.buffer[:end]
	if len(head) < len("HTTP/1.1 200") || !bytes.HasPrefix(head, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("not an answer of HTTP/1.1: %q", head)
	}
	if status, err = strconv.Atoi(string(head[9:12])); err != nil {
		return 0, fmt.Errorf("status of an answer: %w", err)
	}
	length := 0
	if _, value, ok := bytes.Cut(head, contentLength); ok {
		value, _, _ = bytes.Cut(value, []byte("\r\n"))
		if length, err = strconv.Atoi(string(value)); err != nil {
			return 0, fmt.Errorf("length of an answer: %w", err)
		}
	} else if status != 204 {
		return 0, fmt.Errorf("answer %d without Content-Length", status)
	}
	for rest := end + len(endOfHeaders) + length - read; rest > 0; {
		n, err := c.conn.Read(c.buffer[:min(rest, len(c.buffer))])
		if err != nil {
			return 0, err
		}
		rest -= n
	}
	if bytes.Contains(head, closing) {
		c.close()
	}
	return status, nil
}
