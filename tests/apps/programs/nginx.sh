# nginx with a master and two workers under ab over loopback, a reload, an orderly end.
set -eu
port=$1
mkdir -p site temp
seq 20 >site/small
seq 60000 >site/large
{
    if [ "$(id -u)" = 0 ]; then echo 'user root;'; fi
    cat <<CONF
daemon off;
worker_processes 2;
pid nginx.pid;
error_log error.log;
events { worker_connections 64; }
http {
    access_log access.log;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    server {
        listen 127.0.0.1:$port;
        root site;
        location /zipped/ { alias site/; gzip on; gzip_http_version 1.0; gzip_types *; }
    }
}
CONF
} >nginx.conf
nginx -p "$PWD" -e error.log -c nginx.conf &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
fetch() {
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'GET %s HTTP/1.0\r\nAccept-Encoding: %s\r\n\r\n' "$1" "${2:-identity}" >&3
    sed '1,/^\r$/d' <&3
    exec 3>&-
}
until (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 $server
    sleep 0.05
done
bench() { ab -q -c 10 "$@" | grep -E '^(Document Length|Complete requests|Failed requests|Non-2xx|HTML transferred)'; }
bench -n 400 "http://127.0.0.1:$port/small"
bench -n 100 -k "http://127.0.0.1:$port/large"
bench -n 100 -k -H 'Accept-Encoding: gzip' "http://127.0.0.1:$port/zipped/large"
fetch /large | sha256sum
fetch /zipped/large gzip | gzip -dc | sha256sum
fetch /absent | grep -c '404 Not Found'
kill -HUP $server
sleep 0.2
bench -n 50 "http://127.0.0.1:$port/small"
kill -QUIT $server
trap - EXIT
wait $server
