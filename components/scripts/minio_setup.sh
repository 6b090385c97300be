#!/bin/sh
# Brings a MinIO server to what /setup says: buckets, versioning, lifecycles, one user with one policy per consumer.
# It may run any number of times. The shell's own words and coreutils only: mc's image has neither grep nor jq.
set -eu

setup=${SETUP_DIR:-/setup}
keys=${KEYS_DIR:-/keys}
deadline=${DEADLINE_SECONDS:-240}
export MC_CONFIG_DIR="${MC_CONFIG_DIR:-/tmp/mc}"
export MC_HOST_store="$STORE_SCHEME://$ROOT_USER:$ROOT_PASSWORD@$STORE_ADDRESS"

if [ -f "${TLS_DIR:-/tls}/ca.crt" ]; then
    mkdir -p "$MC_CONFIG_DIR/certs/CAs"
    cat "${TLS_DIR:-/tls}/ca.crt" >"$MC_CONFIG_DIR/certs/CAs/ca.crt"
fi

waited=0
until reason=$(mc ls store 2>&1); do
    if [ "$waited" -ge "$deadline" ]; then
        echo "the object store at $STORE_ADDRESS did not answer within $deadline seconds: $reason" >&2
        exit 1
    fi
    sleep 2
    waited=$((waited + 2))
done

while read -r bucket versioning unversioned; do
    [ -n "$bucket" ] || continue
    mc mb --ignore-existing "store/$bucket"
    if [ "$versioning" = versioned ]; then
        mc version enable "store/$bucket" ${unversioned:+--excluded-prefixes "$unversioned"}
    fi
    if [ -f "$setup/lifecycle-$bucket.json" ]; then
        mc ilm rule import "store/$bucket" <"$setup/lifecycle-$bucket.json"
    else
        # Fails where there are no rules, which is what is wanted.
        mc ilm rule rm --all --force "store/$bucket" >/dev/null 2>&1 || :
    fi
done <"$setup/buckets"

wanted=' '
while read -r consumer; do
    [ -n "$consumer" ] || continue
    wanted="$wanted$consumer "
    mc admin policy create store "consumer-$consumer" "$setup/policy-$consumer.json"
    # From standard input: arguments of a process can be read by others.
    printf '%s\n%s\n' "$consumer" "$(cat "$keys/$consumer")" | mc admin user add store >/dev/null
    if ! reason=$(mc admin policy attach store "consumer-$consumer" --user "$consumer" 2>&1); then
        case $reason in
        *"already in effect"*) ;;
        *)
            echo "$consumer: $reason" >&2
            exit 1
            ;;
        esac
    fi
    echo "consumer $consumer has its key and its policy"
done <"$setup/consumers"

# Users of policies with our prefix, and no others, are ours to remove.
policies=$(mc admin policy list store)
for policy in $policies; do
    case $policy in
    consumer-*) consumer=${policy#consumer-} ;;
    *) continue ;;
    esac
    case $wanted in
    *" $consumer "*) continue ;;
    esac
    mc admin user remove store "$consumer" || :
    mc admin policy remove store "$policy"
    echo "consumer $consumer is no longer wanted and was removed"
done
