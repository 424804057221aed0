# initdb, a server on a unix socket, pgbench, a compiled (JIT) query, an orderly end. Not as root.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
export PGHOST=$PWD PGUSER=bench PGDATABASE=postgres
"$bin/initdb" --no-sync -A trust -U bench -E UTF8 --locale=C -D data >/dev/null
"$bin/postgres" -D data -k "$PWD" -h '' -F -c shared_buffers=16MB -c max_connections=12 \
    -c autovacuum=off >server.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
until "$bin/pg_isready" -q; do
    kill -0 $server
    sleep 0.05
done
"$bin/pgbench" -i -s 1 -q >/dev/null 2>&1
"$bin/pgbench" -n -c 2 -j 2 -t 50 >/dev/null 2>&1
"$bin/psql" -X -q -At <<'SQL'
SELECT count(*) FROM pgbench_history;
SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history);
SELECT (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers);
SET jit_above_cost = 0;
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT sum(aid), count(DISTINCT length(filler)) FROM pgbench_accounts WHERE aid % 7 = 3;
CREATE INDEX ON pgbench_accounts (abalance, aid);
SELECT md5(string_agg(aid::text, ',' ORDER BY aid DESC)) FROM pgbench_accounts;
SQL
kill -INT $server
trap - EXIT
wait $server
