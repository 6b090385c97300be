// Command probe is what tests of a cluster run in its pods: it serves, asks, and uses what it was given.
//
//	probe serve PORT         answer every request with its own host name; /data/NAME stores (PUT) and gives (GET) a file
//	probe get URL            print what is answered; exit status 1 where nothing is
//	probe fill MEBIBYTES     use so much memory until it is told to go
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const patience = 3 * time.Second

func main() {
	if len(os.Args) != 3 {
		fail("usage: probe serve PORT | get URL | fill MEBIBYTES")
	}
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2])
	case "get":
		get(os.Args[2])
	case "fill":
		fill(os.Args[2])
	default:
		fail("unknown command " + os.Args[1])
	}
}

func serve(port string) {
	host, _ := os.Hostname()
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, host) })
	http.HandleFunc("GET /data/{name}", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join("/data", filepath.Base(r.PathValue("name"))))
	})
	http.HandleFunc("PUT /data/{name}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = os.WriteFile(filepath.Join("/data", filepath.Base(r.PathValue("name"))), body, 0o600)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	server := &http.Server{Addr: ":" + port}
	go func() {
		wait()
		server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fail(err.Error())
	}
}

func get(url string) {
	client := http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		fail(err.Error())
	}
	defer answer.Body.Close()
	io.Copy(os.Stdout, answer.Body)
	if answer.StatusCode != http.StatusOK {
		fail(answer.Status)
	}
}

func fill(mebibytes string) {
	count, err := strconv.Atoi(mebibytes)
	if err != nil {
		fail(err.Error())
	}
	memory := make([]byte, count<<20)
	for at := 0; at < len(memory); at += 4096 {
		memory[at] = 1
	}
	wait()
	fmt.Println(len(memory))
}

func wait() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGINT, syscall.SIGTERM)
	<-ends
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}
