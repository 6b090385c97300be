#!/bin/sh
# Waits for the server, with a deadline, and dumps the database: a cluster's network policies may take a moment to know a
# pod that has just started, and refuse it until then.
set -eu

. "${0%/*}/postgres_wait.sh"
exec pg_dump --format=custom --file="$DUMP"
