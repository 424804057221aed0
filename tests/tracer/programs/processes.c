/* Ways to start processes and threads; each child makes memory calls. `processes NAME` runs one of them. */
#include "lab.h"
#include <linux/sched.h>
#include <spawn.h>
#include <sys/resource.h>

static char stack[64 * 4096] __attribute__((aligned(16)));
static char *self;

static int use_memory(void)
{
    char *at = map(8, RW);
    stripe(at, 8);
    at[PAGE] = 3;
    return mprotect(at, 8 * PAGE, PROT_READ) || at[PAGE] != 3 || munmap(at + PAGE, 2 * PAGE) || munmap(at, 8 * PAGE);
}

static int child(void *arg)
{
    (void)arg;
    return use_memory() ? 1 : 7;
}

static void reap(pid_t pid, int expected)
{
    int status;
    if (pid < 0)
        fail("no child");
    if (waitpid(pid, &status, __WALL) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != expected)
        fail("the child's status");
}

static void by_fork(void)
{
    char *at = map(4, RW);
    madvise(at + PAGE, PAGE, MADV_DONTFORK);
    madvise(at + 2 * PAGE, PAGE, MADV_WIPEONFORK);
    at[2 * PAGE] = 5;
    if (mlock(at, PAGE))
        fail("mlock");
    pid_t pid = fork();
    if (pid == 0)
        _exit(at[2 * PAGE] != 0 || mprotect(at + PAGE, PAGE, PROT_READ) == 0 ? 1 : child(NULL));
    reap(pid, 7);
}

static void by_vfork(void)
{
    pid_t pid = vfork();
    if (pid == 0)
        _exit(use_memory() ? 1 : 7);
    reap(pid, 7);
    use_memory();
}

static void by_spawn(void)
{
    char *argv[] = {self, "child", NULL}, *none[] = {NULL};
    pid_t pid;
    if (posix_spawn(&pid, self, NULL, NULL, argv, none))
        fail("posix_spawn");
    reap(pid, 7);
    if (posix_spawn(&pid, "/nonexistent", NULL, NULL, argv, none) != ENOENT)
        fail("posix_spawn of what does not exist");
}

static void by_clone(void)
{
    reap(clone(child, stack + sizeof stack, SIGCHLD, NULL), 7);
    reap(clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL), 7);
    reap(clone(child, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_UNTRACED | SIGCHLD, NULL), 7);
    reap(clone(child, stack + sizeof stack, 0, NULL), 7);
    use_memory();
}

static pid_t clone_3(uint64_t flags)
{
    struct clone_args args = {.flags = flags, .exit_signal = SIGCHLD};
    return (pid_t)raw(SYS_clone3, (long)&args, sizeof args, 0, 0, 0, 0);
}

static void by_clone3(void)
{
    pid_t pid = clone_3(0);
    if (pid == 0)
        _exit(child(NULL));
    reap(pid, 7);
    pid = clone_3(CLONE_VFORK);
    if (pid == 0)
        _exit(child(NULL));
    reap(pid, 7);
}

static void by_untraced_clone3(void)
{
    pid_t pid = clone_3(CLONE_UNTRACED);
    if (pid == 0)
        _exit(child(NULL));
    reap(pid, 7);
}

static void *more_memory(void *arg)
{
    for (int i = 0; i < 40; i++)
        if (use_memory())
            fail("memory calls");
    return arg;
}

/* Clones that fail leave nothing behind. */
static void by_failing_clone(void)
{
    pthread_t id[3];
    struct clone_args args = {.flags = CLONE_VM | CLONE_THREAD};
    for (int t = 0; t < 3; t++)
        pthread_create(&id[t], NULL, more_memory, NULL);
    for (int i = 0; i < 40; i++) {
        if (raw(SYS_clone, CLONE_VM | CLONE_THREAD, 0, 0, 0, 0, 0) != -EINVAL)
            fail("clone of a thread with signals of its own");
        if (use_memory())
            fail("memory calls after a failed clone");
        if (raw(SYS_clone3, (long)&args, sizeof args, 0, 0, 0, 0) != -EINVAL)
            fail("clone3 of a thread with signals of its own");
        if (use_memory())
            fail("memory calls after a failed clone3");
        if (raw(SYS_clone3, 8, sizeof args, 0, 0, 0, 0) != -EFAULT || raw(SYS_clone3, (long)&args, 4, 0, 0, 0, 0) != -EINVAL)
            fail("clone3 with bad arguments");
        if (raw(SYS_clone, CLONE_FS | CLONE_NEWNS, 0, 0, 0, 0, 0) != -EINVAL)
            fail("clone with flags that exclude each other");
        if (use_memory())
            fail("memory calls after a failed fork");
    }
    for (int t = 0; t < 3; t++)
        pthread_join(id[t], NULL);
}

static void by_hundreds(int count)
{
    static pid_t pid[1000];
    for (int i = 0; i < count; i++)
        if ((pid[i] = fork()) == 0)
            _exit(child(NULL));
    for (int i = 0; i < count; i++)
        reap(pid[i], 7);
}

/* Forks while other threads change the address space: the child's copy is of one moment. */
static void by_forking_threads(void)
{
    pthread_t id[4];
    for (int t = 0; t < 4; t++)
        pthread_create(&id[t], NULL, more_memory, NULL);
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(child(NULL));
        reap(pid, 7);
    }
    for (int t = 0; t < 4; t++)
        pthread_join(id[t], NULL);
}

/* A child that outlives its parent and the first process: only when it ends is all done. */
static void by_daemon(const char *path)
{
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            usleep(150000);
            use_memory();
            int fd = open(path, O_CREAT | O_WRONLY, 0600);
            _exit(write(fd, "daemon was here", 15) != 15);
        }
        _exit(0);
    }
    _exit(3);
}

static void by_zombies(void)
{
    siginfo_t info;
    pid_t pid = fork();
    if (pid == 0)
        _exit(child(NULL));
    if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) || info.si_code != CLD_EXITED || info.si_status != 7)
        fail("waitid");
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(line, sizeof line, file) || !strstr(line, ") Z "))
        fail("the child is no zombie");
    reap(pid, 7);
    if (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD)
        fail("a child too many");
    signal(SIGCHLD, SIG_IGN);
    if (fork() == 0)
        _exit(child(NULL));
    if (wait(NULL) != -1 || errno != ECHILD)
        fail("an ignored child was waited for");
    use_memory();
}

static void stopped(void)
{
    int status;
    volatile long *calls = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();
    if (pid == 0) {
        /* All the time in the middle of a call that is many host calls: one for each page between two holes. */
        char *at = map(256, RW);
        for (int page = 0; page < 256; page += 2)
            munmap(at + page * PAGE, PAGE);
        for (;; ++*calls)
            madvise(at, 256 * PAGE, MADV_COLD);
    }
    for (int i = 0; i < 30; i++) {
        usleep(1000 + 37 * i);
        kill(pid, SIGSTOP);
        if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP)
            fail("SIGSTOP");
        kill(pid, SIGCONT);
        if (waitpid(pid, &status, WCONTINUED) != pid || !WIFCONTINUED(status))
            fail("SIGCONT");
    }
    /* With little time between the two, the stop may never be seen; the child must go on all the same. */
    for (int i = 0; i < 100; i++) {
        kill(pid, SIGSTOP);
        usleep((unsigned)(i * 13 % 200));
        kill(pid, SIGCONT);
        long before = *calls;
        for (int wait = 0; *calls < before + 2; wait++) {
            if (wait == 4000)
                fail("the child stayed stopped after SIGCONT");
            usleep(500);
        }
    }
    kill(pid, SIGTERM);
    if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGTERM)
        fail("SIGTERM");
}

static void limited(void)
{
    struct rlimit none = {0, 0};
    if (setresuid(65534, 65534, 65534) && getuid() == 0)
        fail("setresuid");
    setrlimit(RLIMIT_NPROC, &none);
    for (int i = 0; i < 10; i++)
        if (fork() != -1 || errno != EAGAIN || use_memory())
            fail("fork beyond the limit");
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    self = argv[0];
    if (!strcmp(name, "child"))
        return child(NULL);
    else if (!strcmp(name, "fork"))
        by_fork();
    else if (!strcmp(name, "vfork"))
        by_vfork();
    else if (!strcmp(name, "spawn"))
        by_spawn();
    else if (!strcmp(name, "clone"))
        by_clone();
    else if (!strcmp(name, "clone3"))
        by_clone3();
    else if (!strcmp(name, "untraced-clone3"))
        by_untraced_clone3();
    else if (!strcmp(name, "failing-clone"))
        by_failing_clone();
    else if (!strcmp(name, "two-hundred"))
        by_hundreds(200);
    else if (!strcmp(name, "forking-threads"))
        by_forking_threads();
    else if (!strcmp(name, "daemon"))
        by_daemon(argv[2]);
    else if (!strcmp(name, "zombies"))
        by_zombies();
    else if (!strcmp(name, "stopped"))
        stopped();
    else if (!strcmp(name, "limited"))
        limited();
    else
        return 2;
    printf("done\n");
    return 0;
}
