#!/bin/bash
# slurm.sh COMMAND...: run a command beside a SLURM controller and a node of this machine's cores, and take both down.
# Needs root and Debian's slurmctld, slurmd, slurm-client and munge. Everything lives in namespaces of its own: no
# process outside sees the network there, which has loopback alone, and none inside outlives the command.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ "$1" != --inside ]; then
    folder=$(mktemp -d /tmp/slurm.XXXXXX)
    trap 'rm -rf "$folder"' EXIT
    unshare --net --pid --mount-proc --fork --kill-child "$0" --inside "$folder" "$@"
    exit
fi
folder=$2
shift 2
ip link set lo up
ip addr add 192.0.2.1/32 dev lo # where 127.0.0.1 is all there is, the resolver finds no name, and SLURM waits for it
chmod 755 "$folder"
mkdir "$folder/state" "$folder/spool"
sed "s|@FOLDER@|$folder|; s|@CPUS@|$(env -u OMP_NUM_THREADS nproc)|" "$here/slurm.conf" >"$folder/slurm.conf"
export SLURM_CONF=$folder/slurm.conf
(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
slurmctld -c
slurmd -N localhost
for _ in $(seq 60); do
    sinfo -h -t idle -o %D 2>/dev/null | grep -q 1 && ready=1 && break
    sleep 0.5
done
if [ -z "${ready:-}" ]; then
    echo "slurm.sh: the node did not come up" >&2
    tail -n 20 "$folder"/*.log >&2
    exit 1
fi
"$@"
