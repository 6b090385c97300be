# Sourced by scripts that lie beside it: waits for the server, with a deadline.
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
