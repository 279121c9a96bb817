// Command load is both ends of the benchmark: the upstream that answers, and the clients that ask.
//
// It speaks HTTP/1.1 on bare sockets, so that it is never what a measure measures: a proxy under test may be as fast as
// nginx, and upstream and clients share one core.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	var err error
	switch command {
	case "upstream":
		err = serveUpstream(os.Args[2:])
	case "vault":
		err = serveVault(os.Args[2:])
	case "run":
		err = runSpec()
	default:
		err = fmt.Errorf("usage: load upstream | load vault FOLDER | load run < spec.json")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// runSpec reads a Spec from stdin and writes its Result to stdout.
func runSpec() error {
	var spec Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(run(&spec))
}

// announce tells whoever started this process where it listens, and waits for its end: a signal, or the closing of stdin.
func announce(where any) error {
	if err := json.NewEncoder(os.Stdout).Encode(where); err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for buffer := make([]byte, 1); ; {
			if _, err := os.Stdin.Read(buffer); err != nil {
				ended <- syscall.SIGTERM
				return
			}
		}
	}()
	<-ended
	return nil
}
