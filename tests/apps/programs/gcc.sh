# Compile, link and run one program; objects must come out identical to the last bit.
set -eu
gcc -std=c11 -O2 -S -o churn.s churn.c
gcc -std=c11 -O2 -c -o churn.o churn.c
sha256sum churn.s churn.o
gcc -pthread -o churned churn.o
./churned 2 3000 || echo "status $?"
printf 'int main(void) { return undeclared; }\n' >wrong.c
gcc -c wrong.c
