/* 40 mprotect calls that change nothing in again(), 8 that change something in turn(); exits with its argument. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

__attribute__((noinline)) static int again(char *page)
{
    return mprotect(page, 4096, PROT_READ | PROT_WRITE) + 1;
}

__attribute__((noinline)) static int turn(char *page, int prot)
{
    return mprotect(page, 4096, prot) + 1;
}

int main(int argc, char **argv)
{
    char line[64];
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int done = 0;

    for (int i = 0; i < 40; i++)
        done += again(page);
    for (int i = 0; i < 4; i++)
        done += turn(page, PROT_READ) + turn(page, PROT_READ | PROT_WRITE);
    if (done != 48)
        return 99;
    if (fgets(line, sizeof line, stdin))
        printf("out %s", line);
    fputs("err", stderr);
    return argc > 1 ? atoi(argv[1]) : 0;
}
