/* A program that sends signals to Laconic, its parent; or is sent them by a terminal. */
#include "lab.h"
#include <sys/signalfd.h>

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

static void print_signal(int number, const siginfo_t *info, void *unused)
{
    char line[100];
    int length = snprintf(line, sizeof line, "signal %d, code %d, sender %d, value %d\n", number, info->si_code,
                          info->si_pid, info->si_code == SI_QUEUE ? info->si_value.sival_int : 0);
    (void)unused;
    if (write(1, line, length) != length)
        _exit(1);
    if (number == SIGTERM)
        _exit(7);
}

/* Prints each signal, received by a handler, sigwaitinfo() or a signalfd; ends at SIGTERM. */
static int listen_for_signals(const char *how)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    for (int number = 1; number < 65; number++) {
        struct sigaction action = {.sa_flags = SA_SIGINFO};
        action.sa_sigaction = print_signal;
        if (number == SIGKILL || number == SIGSTOP || number == 32 || number == 33)
            continue;
        sigaction(number, &action, NULL);
        sigaddset(&set, number);
    }
    if (!strcmp(how, "setsid"))
        setsid();
    if (!strcmp(how, "sigwait") || !strcmp(how, "signalfd"))
        sigprocmask(SIG_BLOCK, &set, NULL);
    if (write(1, "ready\n", 6) != 6)
        return 1;
    if (!strcmp(how, "sigwait"))
        for (;;)
            print_signal(sigwaitinfo(&set, &info), &info, NULL);
    if (!strcmp(how, "signalfd")) {
        int fd = signalfd(-1, &set, 0);
        struct signalfd_siginfo got;
        while (read(fd, &got, sizeof got) == sizeof got) {
            info.si_code = got.ssi_code;
            info.si_pid = got.ssi_pid;
            info.si_value.sival_int = got.ssi_int;
            print_signal(got.ssi_signo, &info, NULL);
        }
    }
    for (;;)
        pause();
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
    if (!strcmp(name, "listen"))
        return listen_for_signals(argv[2]);
    if (!strcmp(name, "group")) {
        /* Every signal to the process group. */
        for (number = 1; number < 65; number++)
            signal(number, count);
        for (number = 1; number < 65; number++)
            if (number != SIGKILL && number != SIGSTOP && number != 32 && number != 33)
                kill(0, number);
        usleep(200000);
        for (number = 1; number < 65; number++)
            printf("%d ", counts[number]);
        printf("\n");
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
