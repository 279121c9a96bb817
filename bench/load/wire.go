package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// A head is a request's or a response's lines up to the empty one, and what they say of the body.
type head struct {
	raw     []byte
	length  int64 // -1: not said
	chunked bool
	close   bool
}

var errTooLong = errors.New("a head longer than 64 KiB")

// readHead reads a head into h, whose buffer is used again.
func readHead(r *bufio.Reader, h *head) error {
	h.raw, h.length, h.chunked, h.close = h.raw[:0], -1, false, false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(h.raw)+len(line) > 64<<10 {
			return errTooLong
		}
		h.raw = append(h.raw, line...)
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			return nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case len(name) == 14 && bytes.EqualFold(name, []byte("content-length")):
			if h.length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return err
			}
		case len(name) == 17 && bytes.EqualFold(name, []byte("transfer-encoding")):
			h.chunked = bytes.EqualFold(value, []byte("chunked"))
		case len(name) == 10 && bytes.EqualFold(name, []byte("connection")):
			h.close = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// status is that of a response's head.
func (h *head) status() int {
	if len(h.raw) < 12 {
		return 0
	}
	status, _ := strconv.Atoi(string(h.raw[9:12]))
	return status
}

// readBody gives a body's bytes to `to` as they arrive, and returns how many there were. A body whose length is not said
// ends with its connection if `toEnd`, else it is empty.
func readBody(r *bufio.Reader, h *head, toEnd bool, to func([]byte)) (int64, error) {
	switch {
	case h.chunked:
		return readChunks(r, to)
	case h.length >= 0:
		return h.length, readBytes(r, h.length, to)
	case toEnd:
		var total int64
		for {
			available, err := next(r, 1<<20)
			if err == io.EOF {
				return total, nil
			}
			if err != nil {
				return total, err
			}
			total += int64(len(available))
			to(available)
			r.Discard(len(available))
		}
	}
	return 0, nil
}

func readChunks(r *bufio.Reader, to func([]byte)) (int64, error) {
	var total int64
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return total, err
		}
		size, _, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(";"))
		length, err := strconv.ParseInt(string(size), 16, 64)
		if err != nil {
			return total, fmt.Errorf("a chunk's size is %q", size)
		}
		if length == 0 {
			for { // trailers, of which there are none but the empty line
				line, err := r.ReadSlice('\n')
				if err != nil || len(bytes.TrimRight(line, "\r\n")) == 0 {
					return total, err
				}
			}
		}
		if err := readBytes(r, length, to); err != nil {
			return total, err
		}
		if _, err := r.Discard(2); err != nil {
			return total, err
		}
		total += length
	}
}

func readBytes(r *bufio.Reader, length int64, to func([]byte)) error {
	for length > 0 {
		available, err := next(r, length)
		if err != nil {
			return err
		}
		to(available)
		r.Discard(len(available))
		length -= int64(len(available))
	}
	return nil
}

// next is what has arrived, at least one byte and at most `limit`; it stays in the buffer.
func next(r *bufio.Reader, limit int64) ([]byte, error) {
	if r.Buffered() == 0 {
		if _, err := r.Peek(1); err != nil {
			return nil, err
		}
	}
	return r.Peek(int(min(int64(r.Buffered()), limit)))
}
