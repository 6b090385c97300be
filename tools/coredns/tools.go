//go:build tools

// Package tools names what this module builds, so that `go mod tidy` keeps what it needs.
package tools

import (
	_ "github.com/coredns/coredns"
)
