#!/bin/sh
# Waits for the server, with a deadline, and runs the statements as administrator.
set -eu

deadline=${DEADLINE_SECONDS:-240}
waited=0
until pg_isready --quiet --timeout=2 --host="$PGHOST" --port="$PGPORT"; do
    if [ "$waited" -ge "$deadline" ]; then
        echo "PostgreSQL at $PGHOST:$PGPORT did not answer within $deadline seconds" >&2
        exit 1
    fi
    sleep 2
    waited=$((waited + 2))
done
exec psql --no-psqlrc --dbname=postgres --file="${SETUP_DIR:-/setup}/setup.sql"
