/* The order in which a parent learns of its child's end: a pidfd becomes readable when waitpid() can reap the child. */
#include "lab.h"
#include <poll.h>
#include <sys/resource.h>

static int open_pidfd(pid_t pid)
{
    return syscall(SYS_pidfd_open, pid, 0);
}

static void *sleep_forever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

/* How the child ends: 0: exit, 1: a signal, 2: exit with other threads, 3: SIGKILL from its parent. */
static void end(int way)
{
    pthread_t thread;
    switch (way) {
    case 1:
        abort();
    case 2:
        for (int i = 0; i < 3; i++)
            pthread_create(&thread, NULL, sleep_forever, NULL);
        break;
    case 3:
        for (;;)
            pause();
    }
    _exit(way);
}

int main(int argc, char **argv)
{
    int tries = argc > 1 ? atoi(argv[1]) : 200;
    int missed[4] = {0};
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    for (int i = 0; i < tries * 4; i++) {
        int status, way = i % 4;
        pid_t pid = fork();
        if (pid == 0)
            end(way);
        struct pollfd ended = {open_pidfd(pid), POLLIN, 0};
        if (way == 3)
            kill(pid, SIGKILL);
        if (ended.fd < 0 || poll(&ended, 1, -1) != 1)
            return 1;
        if (waitpid(pid, &status, WNOHANG) != pid) {
            missed[way]++;
            waitpid(pid, &status, 0);
        }
        close(ended.fd);
    }
    printf("missed after exit %d, signal %d, threads %d, SIGKILL %d\n", missed[0], missed[1], missed[2], missed[3]);
    return 0;
}
