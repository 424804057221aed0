/* A timer at 1 kHz while memory calls are made, some of which need several host calls. */
#include "lab.h"
#include <sys/time.h>

static volatile sig_atomic_t ticks, queued, wrong;

static void tick(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (number != SIGALRM || info->si_code != SI_KERNEL)
        wrong++;
    ticks++;
    /* A memory call from a handler. */
    char *at = mmap(NULL, PAGE, RW, ANON, -1, 0);
    if (at == MAP_FAILED || munmap(at, PAGE))
        wrong++;
}

static void queue(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (number != SIGRTMIN || info->si_code != SI_QUEUE || info->si_pid != getpid()
        || info->si_value.sival_int != 1234567)
        wrong++;
    queued++;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 100;
    struct sigaction on = {.sa_sigaction = tick, .sa_flags = SA_SIGINFO};
    struct itimerval every = {{0, 1000}, {0, 1000}};
    sigset_t block, before, after;
    sigaction(SIGALRM, &on, NULL);
    on.sa_sigaction = queue;
    sigaction(SIGRTMIN, &on, NULL);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigaddset(&block, SIGRTMAX);
    sigprocmask(SIG_SETMASK, &block, NULL);
    sigprocmask(SIG_SETMASK, NULL, &before);
    setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < rounds; i++) {
        char *at = map(16, RW);
        stripe(at, 16);
        at[PAGE] = 7;
        if (sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 1234567}))
            fail("sigqueue");
        if (raw(SYS_mprotect, (long)at, 16 * PAGE, PROT_READ, 0, 0, 0))
            fail("mprotect");
        if (at[PAGE] != 7)
            fail("contents");
        sigprocmask(SIG_SETMASK, NULL, &after);
        if (memcmp(&before, &after, 8))
            fail("the signal mask changed");
        munmap(at + 4 * PAGE, PAGE);
        if (munmap(at, 16 * PAGE))
            fail("munmap");
    }
    /* On a slow machine wait for the first tick. */
    while (!ticks)
        pause();
    memset(&every, 0, sizeof every);
    setitimer(ITIMER_REAL, &every, NULL);
    if (wrong)
        fail("a handler saw wrong information");
    printf("ticks %s, queued %d\n", ticks ? "some" : "none", queued);
    return 0;
}
