# Pipelines, command substitution, process substitution, background jobs and subshells of bash.
set -eu
seq 20000 | awk '{ print $1 % 97, $1 }' | sort -k1,1n -k2,2nr | uniq -w 3 -c | tail -n 5
seq 30000 | gzip -9 | gzip -dc | sha256sum
seq 40 | xargs -P 2 -n 4 sh -c 'echo $(($1 * $2 + $3 - $4))' sh | sort -n | tr '\n' ' '
echo
total=0
for n in $(seq 30); do
    total=$((total + $(echo "$n" | sed 's/$/0/')))
done
echo "$total"
diff <(seq 10) <(seq 2 11) || echo "differ: $?"
(sleep 0.05; exit 4) &
late=$!
(seq 1000 | tr -d '0-8' | tr -d '\n' | wc -c) &
wait $!
wait $late || echo "late: $?"
list=()
for ((n = 0; n < 20000; n++)); do list+=("$n"); done
echo "${#list[@]} ${list[12345]}"
bash -c 'kill -TERM $$' || echo "signalled: $?"
seq 100000 | head -n 1
exit 9
