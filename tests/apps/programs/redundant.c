/* The workload of Gramine issue #1708: mprotect() of every page of a mapping to what it already is.
   usage: redundant [PAGES] */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    long pages = count > 1 ? atol(arguments[1]) : 10000;
    long page = sysconf(_SC_PAGESIZE);
    char *base = NULL;
    if (pages > 0) {
        base = mmap(NULL, (size_t)(pages * page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) {
            perror("mmap");
            return 1;
        }
    }
    for (long n = 0; n < pages; n++)
        *(long *)(base + n * page) = n;
    for (long n = 0; n < pages; n++)
        if (mprotect(base + n * page, (size_t)page, PROT_READ | PROT_WRITE)) {
            perror("mprotect");
            return 1;
        }
    for (long n = 0; n < pages; n++)
        if (*(long *)(base + n * page) != n || *(long *)(base + n * page + page / 2) != 0) {
            fprintf(stderr, "page %ld lost its contents\n", n);
            return 1;
        }
    puts("OK");
    return 0;
}
