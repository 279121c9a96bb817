package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand"
	"net"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A Spec is one measure: the same call again and again on each of several connections. Times are in seconds.
type Spec struct {
	Address     string   `json:"address"`
	Method      string   `json:"method"`
	Target      string   `json:"target"`
	Headers     []string `json:"headers"` // lines; content-length is added
	Body        string   `json:"body"`
	Filler      int64    `json:"filler"` // bytes sent after Body, before Tail
	Tail        string   `json:"tail"`
	Invocation  bool     `json:"invocation"` // send x-ms-invocation-id, as the Functions host does
	Connections int      `json:"connections"`
	Interval    float64  `json:"interval"` // between the beginnings of a connection's calls; 0: each after the other
	Ramp        float64  `json:"ramp"`     // over which the connections begin
	Warmup      float64  `json:"warmup"`   // from the end of the ramp on; what ends within is not counted
	Duration    float64  `json:"duration"`
	Requests    int64    `json:"requests"`     // end after so many instead, at the latest after the duration
	SampleEvery int64    `json:"sample_every"` // sample memory once in so many requests
	Cut         bool     `json:"cut"`          // calls still running at the end are cut, and count as good
	Abandon     int64    `json:"abandon"`      // disconnect after so many chunks, which makes a good call
	Patience    float64  `json:"patience"`     // after the end, for the calls still running
	Pids        []int    `json:"pids"`         // the proxy's
}

// A Result is what was measured between the warm-up's end and the end. Times are in milliseconds unless named otherwise.
type Result struct {
	Seconds    float64        `json:"seconds"`
	Requests   int64          `json:"requests"`
	Errors     map[string]int `json:"errors"`
	Bytes      int64          `json:"bytes"` // of the bodies, up and down
	Events     int64          `json:"events"`
	Open       int64          `json:"open"` // streams that gave an event
	Latency    Quantiles      `json:"latency"`
	FirstByte  Quantiles      `json:"first_byte"` // of the body
	Delay      Quantiles      `json:"delay"`      // of an event, from upstream's sending to the client's reading
	CPUSeconds float64        `json:"cpu_seconds"`
	Stolen     float64        `json:"stolen"`     // the share of all cores that the machine's host kept
	Waited     float64        `json:"waited"`     // the share of the time that the proxy waited for a core others had
	MemoryMiB  []float64      `json:"memory_mib"` // before, after, and the peak between
	Samples    []float64      `json:"samples"`    // of memory, each SampleEvery requests
}

type Quantiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

type load struct {
	*Spec
	counting, end time.Time
	left          atomic.Int64 // with Requests
	done          atomic.Int64
	number        atomic.Int64
	sampling      sync.Mutex
	samples       []float64
}

// A client is one connection's part of the result.
type client struct {
	*load
	requests, bytes, events int64
	latency, first, delay   []time.Duration
	errors                  map[string]int
	open                    bool
	heard                   int64 // chunks of this call
	due                     time.Time
}

func run(spec *Spec) *Result {
	now := time.Now()
	l := &load{Spec: spec, counting: now.Add(seconds(spec.Ramp + spec.Warmup))}
	l.end = l.counting.Add(seconds(spec.Duration))
	l.left.Store(spec.Requests)
	l.number.Store(rand.Int63n(1 << 47)) // a worker remembers the ids of other runs, and refuses those it has seen
	forgetPeaks(spec.Pids)
	before := memoryMiB(spec.Pids, "VmRSS")

	clients := make([]*client, spec.Connections)
	var running sync.WaitGroup
	for i := range clients {
		clients[i] = &client{load: l, errors: map[string]int{}}
		running.Add(1)
		go func() {
			defer running.Done()
			time.Sleep(seconds(spec.Ramp * float64(i) / float64(spec.Connections)))
			clients[i].work()
		}()
	}
	ended := make(chan struct{})
	go func() { running.Wait(); close(ended) }()
	time.Sleep(time.Until(l.counting))
	cpu, stolen, waited := cpuSeconds(spec.Pids), stolenSeconds(), waitedSeconds(spec.Pids)
	select {
	case <-ended:
	case <-time.After(time.Until(l.end)):
	}
	result := &Result{Errors: map[string]int{}, CPUSeconds: cpuSeconds(spec.Pids) - cpu}
	result.Seconds = min(time.Since(l.counting), seconds(spec.Duration)).Seconds()
	result.Stolen = (stolenSeconds() - stolen) / max(result.Seconds, 0.01) / float64(hostCores())
	result.Waited = (waitedSeconds(spec.Pids) - waited) / max(result.Seconds, 0.01)
	<-ended
	result.MemoryMiB = []float64{before, memoryMiB(spec.Pids, "VmRSS"), memoryMiB(spec.Pids, "VmHWM")}
	result.Samples = l.samples

	var latency, first, delay []time.Duration
	for _, c := range clients {
		result.Requests += c.requests
		result.Bytes += c.bytes
		result.Events += c.events
		if c.open {
			result.Open++
		}
		for reason, count := range c.errors {
			result.Errors[reason] += count
		}
		latency, first, delay = append(latency, c.latency...), append(first, c.first...), append(delay, c.delay...)
	}
	result.Latency, result.FirstByte, result.Delay = quantiles(latency), quantiles(first), quantiles(delay)
	return result
}

// work calls until the end, on a new connection where the old one broke.
func (c *client) work() {
	last := c.end.Add(seconds(c.Patience))
	if c.Cut {
		last = c.end
	}
	for c.goesOn() {
		connection, err := net.DialTimeout("tcp", c.Address, time.Until(last))
		if err == nil {
			connection.SetDeadline(last)
			err = c.callAll(connection)
			connection.Close()
		}
		if err == nil || c.Cut && !time.Now().Before(c.end) {
			continue
		}
		c.errors[reason(err)]++
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *client) goesOn() bool {
	return time.Now().Before(c.end) && (c.Requests == 0 || c.left.Load() > 0)
}

func reason(err error) string {
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		return "no answer in time"
	}
	return err.Error()
}

func (c *client) callAll(connection net.Conn) error {
	reader := bufio.NewReaderSize(connection, c.bufferSize())
	var answer head
	var content, message []byte
	fixed := c.fixedHead()
	marks := &markScanner{found: c.event}
	for c.goesOn() && (c.Requests == 0 || c.left.Add(-1) >= 0) {
		message = append(message[:0], fixed...)
		if c.Invocation {
			message = fmt.Appendf(message, "x-ms-invocation-id: 00000000-0000-4000-8000-%012x\r\n", c.number.Add(1))
		}
		message = append(append(message, "\r\n"...), c.Body...)
		time.Sleep(time.Until(c.due))
		began := time.Now()
		c.due = began.Add(seconds(c.Interval))
		if err := c.send(connection, message); err != nil {
			return err
		}
		if err := readHead(reader, &answer); err != nil {
			return fmt.Errorf("no head: %w", unwrapped(err))
		}
		var first time.Time
		c.heard = 0
		content = content[:0]
		_, err := readBody(reader, &answer, true, func(part []byte) {
			if first.IsZero() {
				first = time.Now()
			}
			marks.scan(part)
			c.transferred(len(part))
			if room := 256 - len(content); room > 0 {
				content = append(content, part[:min(room, len(part))]...)
			}
			if c.hasHeardEnough() {
				connection.Close() // which ends the reading
			}
		})
		if err != nil && !c.hasHeardEnough() {
			return fmt.Errorf("the answer broke off: %w", unwrapped(err))
		}
		now := time.Now()
		if status := answer.status(); status != 200 {
			c.errors[fmt.Sprintf("status %d: %s", status, content[:min(120, len(content))])]++
		} else if now.After(c.counting) && !now.After(c.end) {
			c.requests++
			c.latency = append(c.latency, now.Sub(began))
			c.first = append(c.first, first.Sub(began))
		}
		if done := c.done.Add(1); c.SampleEvery > 0 && done%c.SampleEvery == 0 {
			c.sampling.Lock()
			c.samples = append(c.samples, memoryMiB(c.Pids, "VmRSS"))
			c.sampling.Unlock()
		}
		if answer.close || c.hasHeardEnough() {
			return nil
		}
	}
	return nil
}

// unwrapped keeps the addresses out of an error, so that equal ones are counted together.
func unwrapped(err error) error {
	if operation, ok := err.(*net.OpError); ok && !operation.Timeout() {
		return operation.Err
	} else if ok {
		return fmt.Errorf("in time")
	}
	return err
}

func (c *client) hasHeardEnough() bool { return c.Abandon > 0 && c.heard >= c.Abandon }

func (c *client) bufferSize() int {
	if c.Connections > 256 {
		return 4 << 10
	}
	return 64 << 10
}

func (c *client) fixedHead() []byte {
	fixed := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nhost: %s\r\n", c.Method, c.Target, c.Address)
	for _, line := range c.Headers {
		fixed = append(append(fixed, line...), "\r\n"...)
	}
	if c.Method != "GET" {
		fixed = fmt.Appendf(fixed, "content-length: %d\r\n", int64(len(c.Body)+len(c.Tail))+c.Filler)
	}
	return fixed
}

func (c *client) send(connection net.Conn, message []byte) error {
	if _, err := connection.Write(message); err != nil {
		return err
	}
	for left := c.Filler; left > 0; {
		written, err := connection.Write(filler[:min(left, int64(len(filler)))])
		if err != nil {
			return err
		}
		c.transferred(written)
		left -= int64(written)
	}
	if c.Tail == "" {
		return nil
	}
	_, err := connection.Write([]byte(c.Tail))
	return err
}

// transferred notes bytes of a body, which may be far from whole when the measure ends.
func (c *client) transferred(length int) {
	if now := time.Now(); now.After(c.counting) && now.Before(c.end) {
		c.bytes += int64(length)
	}
}

// event notes a chunk's arrival.
func (c *client) event(sent int64) {
	now := time.Now()
	c.open = true
	c.heard++
	if now.After(c.counting) && now.Before(c.end) {
		c.events++
		if c.Cut {
			c.delay = append(c.delay, time.Duration(now.UnixNano()-sent))
		}
	}
}

// A markScanner finds upstream's marks in a body, whose parts may begin and end anywhere.
type markScanner struct {
	found  func(int64)
	digits []byte
	inside bool
}

func (s *markScanner) scan(part []byte) {
	for len(part) > 0 {
		if !s.inside {
			at := bytes.IndexByte(part, mark)
			if at < 0 {
				return
			}
			part, s.inside, s.digits = part[at+1:], true, s.digits[:0]
			continue
		}
		taken := min(markDigits-len(s.digits), len(part))
		s.digits, part = append(s.digits, part[:taken]...), part[taken:]
		if len(s.digits) == markDigits {
			sent, _ := strconv.ParseInt(string(s.digits), 10, 64)
			s.found(sent)
			s.inside = false
		}
	}
}

func quantiles(times []time.Duration) Quantiles {
	if len(times) == 0 {
		return Quantiles{}
	}
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	at := func(share float64) float64 {
		return float64(times[int(share*float64(len(times)-1))]) / float64(time.Millisecond)
	}
	return Quantiles{Count: len(times), P50: at(0.5), P99: at(0.99), Max: at(1)}
}

func seconds(count float64) time.Duration { return time.Duration(count * float64(time.Second)) }
