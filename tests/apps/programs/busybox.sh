# Applets of a static busybox, started by its own shell.
set -eu
box() { busybox "$@"; }
box seq 5000 | box awk '{ s += $1 } END { print s }'
box seq 3000 | box sort -r | box head -n 3
box seq 20000 | box gzip | box gunzip | box md5sum
box dd if=/dev/zero bs=1M count=8 2>/dev/null | box wc -c
box sh -c 'exit 6' || echo "status $?"
(box sleep 0.05; echo late) &
wait
exit 2
