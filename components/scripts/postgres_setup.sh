#!/bin/sh
# Waits for the server, with a deadline, and runs the statements as administrator.
set -eu

. "${0%/*}/postgres_wait.sh"
exec psql --no-psqlrc --dbname=postgres --file="${SETUP_DIR:-/setup}/setup.sql"
