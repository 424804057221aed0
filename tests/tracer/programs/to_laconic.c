/* A program that sends signals to Laconic, its parent; or is sent them by a terminal. */
#include "lab.h"

static volatile sig_atomic_t counts[65];

static void count(int number)
{
    counts[number]++;
}

static void wait_for(int number)
{
    struct timespec moment = {0, 5000000};
    for (int i = 0; i < 2000 && !counts[number]; i++)
        nanosleep(&moment, NULL);
    /* A second one would come now. */
    for (int i = 0; i < 20; i++)
        nanosleep(&moment, NULL);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    int number = argc > 2 ? atoi(argv[2]) : 0;
    if (!strcmp(name, "wait") || !strcmp(name, "send")) {
        signal(number, count);
        if (!strcmp(name, "send"))
            kill(getppid(), number);
        else if (write(1, "ready\n", 6) != 6)
            return 1;
        wait_for(number);
        for (int other = 1; other < 65; other++)
            if (counts[other])
                printf("signal %d, %d times\n", other, counts[other]);
        return 7;
    }
    if (!strcmp(name, "children-left")) {
        /* The first program ends, and what it left running is sent the signal. */
        signal(number, count);
        pid_t laconic = getppid();
        if (fork())
            return 3;
        while (getppid() != 1 && getppid() != laconic)
            sched_yield();
        kill(laconic, number);
        wait_for(number);
        printf("signal %d, %d times\n", number, counts[number]);
        return 0;
    }
    if (!strcmp(name, "kill")) {
        pid_t children[5];
        for (int i = 0; i < 5; i++) {
            children[i] = fork();
            if (children[i] == 0)
                for (;;) {
                    /* Some of them in the middle of calls. */
                    char *at = map(8, RW);
                    stripe(at, 8);
                    mprotect(at, 8 * PAGE, PROT_READ);
                    munmap(at, 8 * PAGE);
                    if (i % 2)
                        pause();
                }
        }
        printf("%d %d %d %d %d %d\n", getpid(), children[0], children[1], children[2], children[3], children[4]);
        fflush(stdout);
        usleep(50000);
        kill(getppid(), SIGKILL);
        for (;;)
            pause();
    }
    return 2;
}
