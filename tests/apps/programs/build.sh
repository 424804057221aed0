# Build with two jobs, run the result, and see that a second make has nothing to do.
set -eu
unset MAKEFLAGS MAKELEVEL
make -s -j2 CC=gcc -f build.mk total
./total
cat unit_*.o main.o | sha256sum
make -q CC=gcc -f build.mk total
