#!/bin/bash
# Makes the real logs of this directory anew, with the strace that is installed. Run it as  bash make.sh  anywhere: the
# program runs in /opt/demo, without randomised addresses, so that all logs of the same calls show the same addresses.
set -eu
corpus=$(cd "$(dirname "$0")" && pwd)
mkdir -p /opt/demo
cp "$corpus/demo.c" /opt/demo
cd /opt/demo
gcc -O1 -pthread demo.c -o demo
only=trace=%memory,%process,%file,%desc,%ipc,personality,prctl
run() { # name, strace's options ...
    local name=$1
    shift
    # With padding, so that what stands on the stack does not move with the options.
    env -i setarch -R strace -o "$corpus/$name.log" "$@" ./demo || true
}
run f -f -e $only
run f-all -f
run f-tt -f -tt -e $only
run f-t -f -t -e $only
run f-ttt-T -f -ttt -T -e $only
run f-r -f -r -e $only
run f-y -f -y -e $only
run f-yy -f -yy -e $only
run f-Y -f -Y -tt -e $only
run f-k -f -k -e $only
run f-n-i -f -n -i -e $only
run f-X-raw -f -X raw -e $only
run f-X-verbose -f -X verbose -e $only
run f-raw -f -e raw=mmap,mprotect,munmap,brk,mremap,madvise -e $only
run f-z -f -z -e $only
run f-x -f -xx -s 4096 -e $only
run f-a -f -a 1 -e $only
run f-C -f -C -e $only
run single -e $only
run single-tt-T-y -tt -T -y -e $only
rm -f "$corpus"/ff.log.* "$corpus"/ff-tt.log.*
run ff -ff -e $only
run ff-tt -ff -tt -T -e $only
# Without -o: to standard error, with the program's own.
env -i setarch -R strace -f -e $only ./demo 2> "$corpus/stderr.log" || true
env -i setarch -R strace -f -tt ./demo words 2> "$corpus/killed.log" || true
