/* Ends of processes in the middle of memory calls. `dying NAME` runs one of them. */
#include "lab.h"
#include <sys/resource.h>

static char stack[3][64 * 1024] __attribute__((aligned(16)));

static void churn_once(void)
{
    char *at = map(24, RW);
    stripe(at, 24);
    mprotect(at, 24 * PAGE, PROT_READ);
    munmap(at + PAGE, 2 * PAGE);
    munmap(at, 24 * PAGE);
}

static void *churn(void *arg)
{
    for (;;)
        churn_once();
    return arg;
}

static void start_threads(int count)
{
    pthread_t id;
    for (int t = 0; t < count; t++)
        if (pthread_create(&id, NULL, churn, NULL))
            fail("pthread_create");
}

static void exit_group_meanwhile(void)
{
    start_threads(4);
    usleep(20000);
    _exit(9);
}

static void many_exits(void)
{
    for (int i = 0; i < 12; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            start_threads(3);
            usleep(1000 * (unsigned)i);
            _exit(9);
        }
        if (waitpid(pid, &status, 0) != pid || status != 9 << 8)
            fail("exit status");
    }
}

static int shares(void *threads)
{
    int flags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_FS | CLONE_FILES;
    /* No pthread_create: it would take locks that a killed process never gives back. */
    for (int t = 1; threads && t < 3; t++)
        clone(shares, stack[t] + sizeof stack[t], flags, NULL);
    for (;;)
        churn_once();
    return 0;
}

/* A process dies by SIGKILL in a memory call; another, on the same address space, goes on. */
static void sibling_is_killed(void *threads)
{
    for (int i = 0; i < 15; i++) {
        int status;
        pid_t pid = clone(shares, stack[0] + sizeof stack[0], CLONE_VM | SIGCHLD, threads);
        if (pid < 0)
            fail("clone");
        for (int j = 0; j < i % 5; j++)
            churn_once();
        usleep((unsigned)(i * 311 % 4000));
        kill(pid, SIGKILL);
        for (int j = 0; j < 3; j++)
            churn_once();
        if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
            fail("SIGKILL");
        churn_once();
    }
}

static void random_kills(void)
{
    for (int i = 0; i < 25; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            int fd = open("/proc/self/exe", O_RDONLY);
            if (i % 2)
                start_threads(2);
            for (;;) {
                if (i % 3 == 0 && fork() == 0)
                    _exit(0);
                void *file = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
                char *low = mmap(NULL, 4 * PAGE, RW, ANON | MAP_GROWSDOWN, -1, 0);
                munmap(low - 4 * PAGE, 8 * PAGE);
                munmap(file, PAGE);
                mmap((void *)0x200000000, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
                churn_once();
            }
        }
        usleep((unsigned)(i * 977 % 9000));
        kill(pid, SIGKILL);
        if (waitpid(pid, &status, 0) != pid || status != SIGKILL)
            fail("SIGKILL");
    }
}

static void segv(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    printf("about to fall\n");
    fflush(stdout);
    volatile char *at = map(1, RW);
    mprotect((void *)at, PAGE, PROT_READ);
    *at = 1;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "exit-group"))
        exit_group_meanwhile();
    else if (!strcmp(name, "many-exits"))
        many_exits();
    else if (!strcmp(name, "sibling"))
        sibling_is_killed(NULL);
    else if (!strcmp(name, "sibling-with-threads"))
        sibling_is_killed(stack);
    else if (!strcmp(name, "random-kills"))
        random_kills();
    else if (!strcmp(name, "segv"))
        segv();
    else if (!strcmp(name, "abort"))
        abort();
    else
        return 2;
    printf("done\n");
    return 0;
}
