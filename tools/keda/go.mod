// Only files of this module are used, nothing of it is compiled: `go mod tidy` would drop it.
module modelport/tools/keda

go 1.26

require github.com/kedacore/keda/v2 v2.21.0
