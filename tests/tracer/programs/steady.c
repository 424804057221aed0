/* steady ROUNDS STATUS: 20 rounds a second of 10 mprotect calls that change nothing and 2 that change something. */
#include "lab.h"

__attribute__((noinline)) static int again(char *page)
{
    return mprotect(page, PAGE, RW) + 1;
}

__attribute__((noinline)) static int turn(char *page, int prot)
{
    return mprotect(page, PAGE, prot) + 1;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    char *page = map(1, RW);
    for (int round = 0; round < rounds; round++) {
        int done = 0;
        for (int i = 0; i < 10; i++)
            done += again(page);
        done += turn(page, PROT_READ) + turn(page, RW);
        if (done != 12)
            return 99;
        printf("round %d\n", round);
        fflush(stdout);
        usleep(50000);
    }
    return argc > 2 ? atoi(argv[2]) : 0;
}
