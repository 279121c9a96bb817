package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The kernel counts CPU time in these (sysconf(_SC_CLK_TCK), which is 100 on every Linux of today).
const ticksPerSecond = 100

// cpuSeconds is the CPU time, user and system, that these processes have used so far.
func cpuSeconds(pids []int) float64 {
	var ticks int64
	for _, pid := range pids {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			continue
		}
		// The second field is the name in parentheses, which may hold spaces; utime and stime are the 14th and 15th.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		user, _ := strconv.ParseInt(fields[11], 10, 64)
		system, _ := strconv.ParseInt(fields[12], 10, 64)
		ticks += user + system
	}
	return float64(ticks) / ticksPerSecond
}

// hostCores counts all cores, also those that this process may not run on.
func hostCores() int {
	stat, _ := os.ReadFile("/proc/stat")
	return max(1, bytes.Count(stat, []byte("\ncpu")))
}

// stolenSeconds is the time that a virtual machine's host has kept from all of its cores so far.
func stolenSeconds() float64 {
	stat, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 {
		return 0
	}
	ticks, _ := strconv.ParseInt(fields[8], 10, 64)
	return float64(ticks) / ticksPerSecond
}

// waitedSeconds is how long the threads of these processes were ready to run while others had the core (the second field
// of schedstat, in nanoseconds).
func waitedSeconds(pids []int) float64 {
	var nanoseconds int64
	for _, pid := range pids {
		threads, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
		for _, thread := range threads {
			schedstat, _ := os.ReadFile(thread)
			if fields := strings.Fields(string(schedstat)); len(fields) > 1 {
				waited, _ := strconv.ParseInt(fields[1], 10, 64)
				nanoseconds += waited
			}
		}
	}
	return float64(nanoseconds) / 1e9
}

// memoryMiB sums a field of /proc/<pid>/status: VmRSS is the resident memory now, VmHWM the most there was.
func memoryMiB(pids []int, field string) float64 {
	var kib int64
	for _, pid := range pids {
		status, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		_, rest, found := strings.Cut(string(status), field+":")
		if !found {
			continue
		}
		value, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		kib += value
	}
	return float64(kib) / 1024
}

// forgetPeaks makes VmHWM begin anew (proc(5), clear_refs).
func forgetPeaks(pids []int) {
	for _, pid := range pids {
		os.WriteFile("/proc/"+strconv.Itoa(pid)+"/clear_refs", []byte("5"), 0)
	}
}
