// Only files of this module are used, nothing of it is compiled: `go mod tidy` would drop it.
module modelport/tools/cert-manager

go 1.26

require github.com/cert-manager/cert-manager v1.21.2
