#!/bin/bash
# ray.sh COMMAND...: run a command beside a Ray cluster of two nodes with one core each, and take both down.
# Needs root and an environment that has ray on its PATH. Everything lives in namespaces of its own: Ray listens on
# whatever address there is, so loopback is all that it is given, and no process of it outlives the command.
set -eu
if [ "$1" != --inside ]; then
    folder=$(mktemp -d /tmp/ray.XXXXXX)
    trap 'rm -rf "$folder"' EXIT
    unshare --net --pid --mount-proc --fork --kill-child "$0" --inside "$folder" "$@"
    exit
fi
folder=$2
shift 2
ip link set lo up
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled RAY_ADDRESS=127.0.0.1:6399
start() { # on a busy machine a node may miss the 30 s that Ray gives it
    for _ in 1 2 3; do
        ray start "$@" --node-ip-address=127.0.0.1 --num-cpus=1 --object-store-memory=100000000 --disable-usage-stats \
            >>"$folder/ray.log" 2>&1 && return
    done
    cat "$folder/ray.log" >&2
    exit 1
}
start --head --port=6399 --include-dashboard=false --temp-dir="$folder"
start --address="$RAY_ADDRESS"
for _ in $(seq 60); do
    [ "$(ray status 2>/dev/null | grep -c "^ 1 node_")" = 2 ] && ready=1 && break
    sleep 0.5
done
if [ -z "${ready:-}" ]; then
    echo "ray.sh: the second node did not come up" >&2
    ray status >&2
    exit 1
fi
"$@"
