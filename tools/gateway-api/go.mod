// Only files of this module are used, nothing of it is compiled: `go mod tidy` would drop it.
module modelport/tools/gateway-api

go 1.26

require sigs.k8s.io/gateway-api v1.6.3
