package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"
)

// A client posts events over one keep-alive connection. It takes a fraction of
// http.Client's processor time, because the load shares the machine with what it
// measures.
type client struct {
	address string
	conn    net.Conn // nil: not connected
	in      *bufio.Reader
}

// posts returns n senders to the HTTP service at address.
func posts(address string, n int) []sender {
	senders := make([]sender, n)
	for i := range senders {
		senders[i] = &client{address: address}
	}
	return senders
}

func (c *client) send(batch []*event) (accepted bool, err error) {
	status, err := c.post(batch[0])
	return 200 <= status && status < 300, err
}

// responseTimeout bounds one request.
const responseTimeout = time.Minute

// post posts e and returns the status of the response. After an error the next
// call opens a new connection.
func (c *client) post(e *event) (status int, err error) {
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", c.address, 5*time.Second); err != nil {
			return 0, err
		}
		c.in = bufio.NewReader(c.conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(responseTimeout)); err != nil {
		return 0, err
	}
	request := net.Buffers{e.head, e.body}
	if _, err := request.WriteTo(c.conn); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, err
	}
	if response.Close {
		c.close()
	}
	return response.StatusCode, nil
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
