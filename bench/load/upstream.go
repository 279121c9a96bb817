package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"time"
)

// The headers that an APIM API with Azure OpenAI behind it answers with, as far as their number and length matter.
const answerHeaders = "content-type: %s\r\n" +
	"apim-request-id: 7b0c1d58-3ad1-4a5e-9c5a-1f6c7b9c0d11\r\n" +
	"strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n" +
	"x-content-type-options: nosniff\r\n" +
	"x-ms-region: Sweden Central\r\n" +
	"x-ratelimit-limit-requests: 1000\r\n" +
	"x-ratelimit-remaining-requests: 999\r\n" +
	"x-ratelimit-remaining-tokens: 99000\r\n" +
	"x-ms-deployment-name: gpt-4o\r\n" +
	"x-request-id: 0f2f8a8e-62b0-4a3f-9f59-52cb0b7b44f2\r\n" +
	"date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"

const completion = `{"id":"chatcmpl-bench","object":"chat.completion","created":1767225600,"model":"gpt-4o-2024-11-20",` +
	`"system_fingerprint":"fp_bench","choices":[{"index":0,"finish_reason":"stop","logprobs":null,"message":{"role":` +
	`"assistant","content":"The quick brown fox jumps over the lazy dog, and the lazy dog does not mind it at all.",` +
	`"refusal":null}}],"usage":{"prompt_tokens":21,"completion_tokens":22,"total_tokens":43}}`

const (
	eventBegin = `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1767225600,"model":` +
		`"gpt-4o-2024-11-20","system_fingerprint":"fp_bench","choices":[{"index":0,"delta":{"content":"`
	eventEnd   = "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n"
	lastEvents = `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1767225600,"model":` +
		`"gpt-4o-2024-11-20","system_fingerprint":"fp_bench","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` +
		"\n\ndata: [DONE]\n\n"
	// A chunk's content: when it was sent, in nanoseconds since 1970.
	mark       = '@'
	markDigits = 19
)

var (
	scripted = regexp.MustCompile(`bench chunks=(\d+) milliseconds=(\d+)`)
	download = regexp.MustCompile(`/files/bench-(\d+)/content`)
	filler   = bytes.Repeat([]byte("A"), 64<<10)
)

// serveUpstream answers what a chat completion, an upload and a download would be. The call's own content says how a
// stream goes, since not every peer passes headers on. A call without the key is refused: every peer does its job.
func serveUpstream(arguments []string) error {
	flags := flag.NewFlagSet("upstream", flag.ContinueOnError)
	key := flags.String("key", "", "the key that must come, as api-key or as a Bearer token")
	trusted := flags.String("certificate", "", "the file into which the certificate of the TLS port is written")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	certificate, err := makeCertificate(*trusted)
	if err != nil {
		return err
	}
	secure, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13,
	})
	if err != nil {
		return err
	}
	go acceptAll(listener, *key)
	go acceptAll(secure, *key)
	return announce(map[string]int{
		"port": listener.Addr().(*net.TCPAddr).Port, "tls_port": secure.Addr().(*net.TCPAddr).Port,
	})
}

func acceptAll(listener net.Listener, key string) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go answerAll(connection, key)
	}
}

func answerAll(connection net.Conn, key string) {
	defer connection.Close()
	reader := bufio.NewReaderSize(connection, 64<<10)
	apiKey, bearer := []byte(": "+key+"\r\n"), []byte(": Bearer "+key+"\r\n")
	var request head
	var start, answer []byte
	for {
		if err := readHead(reader, &request); err != nil {
			return
		}
		if bytes.Contains(request.raw, []byte("100-continue")) {
			connection.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
		}
		start = start[:0]
		length, err := readBody(reader, &request, false, func(part []byte) {
			if room := 16<<10 - len(start); room > 0 {
				start = append(start, part[:min(room, len(part))]...)
			}
		})
		if err != nil {
			return
		}
		line, _, _ := bytes.Cut(request.raw, []byte("\r\n"))
		answer = answer[:0]
		switch {
		case !bytes.Contains(request.raw, apiKey) && !bytes.Contains(request.raw, bearer):
			answer = sized(answer, "401 Unauthorized", `{"statusCode": 401, "message": "Access denied due to missing subscription key."}`)
		case bytes.HasPrefix(line, []byte("GET ")) && download.Match(line):
			size, _ := strconv.ParseInt(string(download.FindSubmatch(line)[1]), 10, 64)
			if !sendFiller(connection, size) {
				return
			}
			continue
		case bytes.Contains(line, []byte("/chat/completions")):
			if script := scripted.FindSubmatch(start); script != nil {
				chunks, _ := strconv.Atoi(string(script[1]))
				milliseconds, _ := strconv.Atoi(string(script[2]))
				if !sendEvents(connection, chunks, time.Duration(milliseconds)*time.Millisecond) {
					return
				}
				continue
			}
			answer = sized(answer, "200 OK", completion)
		default:
			answer = sized(answer, "200 OK", fmt.Sprintf(`{"id":"file-bench","object":"file","bytes":%d}`, length))
		}
		if _, err := connection.Write(answer); err != nil {
			return
		}
	}
}

func sized(to []byte, status, content string) []byte {
	to = fmt.Appendf(to, "HTTP/1.1 %s\r\n", status)
	to = fmt.Appendf(to, answerHeaders, "application/json")
	return fmt.Appendf(to, "content-length: %d\r\n\r\n%s", len(content), content)
}

func sendFiller(connection net.Conn, size int64) bool {
	answer := fmt.Appendf([]byte("HTTP/1.1 200 OK\r\n"), answerHeaders, "application/octet-stream")
	answer = fmt.Appendf(answer, "content-length: %d\r\n\r\n", size)
	if _, err := connection.Write(answer); err != nil {
		return false
	}
	for ; size > 0; size -= min(size, int64(len(filler))) {
		if _, err := connection.Write(filler[:min(size, int64(len(filler)))]); err != nil {
			return false
		}
	}
	return true
}

// sendEvents writes each event by itself, as a model's tokens come.
func sendEvents(connection net.Conn, chunks int, interval time.Duration) bool {
	answer := fmt.Appendf([]byte("HTTP/1.1 200 OK\r\n"), answerHeaders, "text/event-stream; charset=utf-8")
	answer = append(answer, "transfer-encoding: chunked\r\n\r\n"...)
	if _, err := connection.Write(answer); err != nil {
		return false
	}
	size := len(eventBegin) + 1 + markDigits + len(eventEnd)
	due := time.Now()
	for range chunks {
		if interval > 0 {
			due = due.Add(interval)
			time.Sleep(time.Until(due))
		}
		answer = append(fmt.Appendf(answer[:0], "%x\r\n", size), eventBegin...)
		answer = strconv.AppendInt(append(answer, mark), time.Now().UnixNano(), 10)
		answer = append(append(answer, eventEnd...), "\r\n"...)
		if _, err := connection.Write(answer); err != nil {
			return false
		}
	}
	answer = fmt.Appendf(answer[:0], "%x\r\n%s\r\n0\r\n\r\n", len(lastEvents), lastEvents)
	_, err := connection.Write(answer)
	return err == nil
}
