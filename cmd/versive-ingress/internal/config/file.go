package config

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"syscall"

	"versive-ingress/publish/access"
)

// maxFile is the size in bytes of the largest file that is read. A larger one was
// named by mistake, and could take all memory of a running ingress.
const maxFile = 16 << 20

// ReadFile reads a file that a setting names. It returns an error unless the file is a
// regular one, or a symbolic link to one: others can block the reader, and do not
// return the same content a second time.
func ReadFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a named pipe would wait for a writer
	if err != nil {
		return nil, access.Explain(err, "")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() {
		kind := "device"
		switch {
		case mode.IsDir():
			kind = "directory"
		case mode&os.ModeNamedPipe != 0:
			kind = "pipe"
		}
		return nil, fmt.Errorf("%s is a %s: want a regular file, which can be read again when it changes", name, kind)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is too large: want at most %v", name, Size(maxFile))
	}
	return text, err
}

// ReadKeyPair reads a certificate and its key from files in PEM.
func ReadKeyPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := ReadFile(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ReadFile(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}
