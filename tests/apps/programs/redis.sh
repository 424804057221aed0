# redis-server under redis-benchmark over loopback, a background save (fork), a reload, an orderly shutdown.
set -eu
port=$1
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir . --enable-debug-command yes \
    --logfile server.log --daemonize no &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
ask() { redis-cli -h 127.0.0.1 -p "$port" "$@"; }
until [ "$(ask ping 2>/dev/null)" = PONG ]; do
    kill -0 $server
    sleep 0.05
done
redis-benchmark -h 127.0.0.1 -p "$port" -n 2000 -c 10 -q -t set,get,incr,lpush,rpop,sadd,hset,zadd >/dev/null
redis-benchmark -h 127.0.0.1 -p "$port" -n 500 -c 10 -d 20000 -q -t set,get >/dev/null
ask eval 'for n = 1, 5000 do redis.call("set", "key:" .. n, string.rep("v", n % 300)) end' 0
ask dbsize
ask get 'counter:__rand_int__'
ask llen mylist
ask strlen key:299
ask debug digest
ask bgsave
while ask info persistence | grep -q rdb_bgsave_in_progress:1; do sleep 0.05; done
ask info persistence | grep rdb_last_bgsave_status | tr -d '\r'
ask debug reload
ask debug digest
ask flushall
ask dbsize
ask shutdown nosave
trap - EXIT
wait $server
