// Only files of this module are used, nothing of it is compiled: `go mod tidy` would drop it.
module modelport/tools/prometheus-operator

go 1.26

require github.com/prometheus-operator/prometheus-operator v0.85.0
