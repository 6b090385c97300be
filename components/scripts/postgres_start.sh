#!/bin/sh
# Makes the database's folder on the first start. On every other one gives the administrator the present password:
# in single-user mode, before anybody can connect, so that the old password is not needed.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # What a first start that was cut off left would be refused by the next.
    rm -rf "$PGDATA.new"
    initdb --pgdata="$PGDATA.new" --username=postgres --pwfile="$ADMIN_PASSWORD_FILE" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=scram-sha-256 --auth-host=scram-sha-256 --data-checksums
    mv "$PGDATA.new" "$PGDATA"
    echo "made a new database in $PGDATA"
    exit 0
fi

# Passwords are letters and digits: nothing in them needs quoting.
printf "ALTER ROLE postgres PASSWORD '%s'\n" "$(cat "$ADMIN_PASSWORD_FILE")" |
    postgres --single -D "$PGDATA" -c log_min_error_statement=panic -c log_statement=none postgres >/dev/null
echo "the administrator has the present password"
