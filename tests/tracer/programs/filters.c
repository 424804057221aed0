/* Programs with seccomp filters of their own, and one that hides its /proc files. `filters NAME` runs one. */
#include "lab.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IS(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, then, otherwise)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)

static volatile int trapped;

static int install(struct sock_filter *code, unsigned short length, unsigned flags)
{
    struct sock_fprog program = {length, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        fail("no_new_privs");
    int result = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (result < 0)
        fail("seccomp");
    return result;
}

/* What `action` is for system call `nr`; all others are allowed. */
static int filter_call(unsigned nr, unsigned action, unsigned flags)
{
    struct sock_filter code[] = {LOAD(nr), IS(nr, 0, 1), RETURN(action), RETURN(SECCOMP_RET_ALLOW)};
    return install(code, 4, flags);
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    trapped = info->si_syscall;
}

static void memory_calls(void)
{
    char *at = map(8, RW);
    stripe(at, 8);
    if (mprotect(at, 8 * PAGE, PROT_READ) || munmap(at, 8 * PAGE))
        fail("memory calls");
}

static void by_errno(void)
{
    filter_call(SYS_madvise, SECCOMP_RET_ERRNO | EXDEV, 0);
    char *at = map(4, RW);
    if (madvise(at, PAGE, MADV_DONTFORK) != -1 || errno != EXDEV)
        fail("errno of a filter");
    memory_calls();
}

static void by_trap(void)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    filter_call(SYS_madvise, SECCOMP_RET_TRAP, 0);
    char *at = map(4, RW);
    madvise(at, PAGE, MADV_DONTFORK);
    if (trapped != SYS_madvise)
        fail("trap of a filter");
    memory_calls();
}

static void by_kill(void)
{
    pid_t pid = fork();
    int status;
    if (pid == 0) {
        filter_call(SYS_madvise, SECCOMP_RET_KILL_PROCESS, 0);
        memory_calls();
        madvise(map(4, RW), PAGE, MADV_DONTFORK);
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
        fail("kill of a filter");
}

static void *supervise(void *arg)
{
    int listener = *(int *)arg;
    for (;;) {
        struct seccomp_notif ask = {0};
        struct seccomp_notif_resp answer = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &ask))
            continue;
        memory_calls();
        answer.id = ask.id;
        if (ask.data.nr == SYS_madvise)
            answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        else
            answer.val = 4321;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
    return arg;
}

static void by_notification(int nr)
{
    static int listener;
    pthread_t id;
    /* The supervisor's own memory calls are not filtered: it started before. */
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    int ready[2];
    if (pipe(ready))
        fail("pipe");
    listener = -1;
    pid_t pid = fork();
    if (pid == 0) {
        struct sock_filter code[] = {LOAD(nr), IS((unsigned)nr, 0, 1), RETURN(SECCOMP_RET_USER_NOTIF),
                                     RETURN(SECCOMP_RET_ALLOW)};
        int fd = install(code, 4, SECCOMP_FILTER_FLAG_NEW_LISTENER);
        if (write(ready[1], &fd, sizeof fd) != sizeof fd)
            _exit(1);
        memory_calls();
        if (nr == SYS_getppid)
            _exit(raw(SYS_getppid, 0, 0, 0, 0, 0, 0) == 4321 ? 0 : 2);
        char *at = map(4, RW);
        _exit(madvise(at, PAGE, MADV_DONTFORK) ? 3 : mprotect(at, 2 * PAGE, PROT_READ) ? 4 : 0);
    }
    int theirs, status;
    if (read(ready[0], &theirs, sizeof theirs) != sizeof theirs)
        fail("read");
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    listener = (int)syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
    if (listener < 0)
        fail("pidfd_getfd");
    pthread_create(&id, &attr, supervise, &listener);
    if (waitpid(pid, &status, 0) != pid || status)
        fail("notification of a filter");
}

/* A sandbox that lists the mmap flags it knows, as Chromium's does. */
static void by_mmap_flags(void)
{
    unsigned known = MAP_SHARED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE | MAP_FIXED | MAP_DENYWRITE;
    struct sock_filter code[] = {
        LOAD(nr), IS(SYS_mmap, 0, 3), LOAD(args[3]), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, ~known, 0, 1),
        RETURN(SECCOMP_RET_KILL_PROCESS), RETURN(SECCOMP_RET_ALLOW)};
    install(code, 6, 0);
    memory_calls();
    memory_calls();
}

static void undumpable(void)
{
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
        fail("PR_SET_DUMPABLE");
    memory_calls();
    int fd = open("/etc/passwd", O_RDONLY);
    char *at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    if (fd < 0 || at == MAP_FAILED || at[0] != 'r')
        fail("mmap of a file");
    memory_calls();
    if (sbrk(3 * PAGE) == (void *)-1)
        fail("sbrk");
    pid_t pid = fork();
    int status;
    if (pid == 0)
        memory_calls(), _exit(0);
    if (waitpid(pid, &status, 0) != pid || status)
        fail("fork");
    if (munmap(at, PAGE))
        fail("munmap");
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "errno"))
        by_errno();
    else if (!strcmp(name, "trap"))
        by_trap();
    else if (!strcmp(name, "kill"))
        by_kill();
    else if (!strcmp(name, "notify"))
        by_notification(SYS_getppid);
    else if (!strcmp(name, "notify-memory"))
        by_notification(SYS_madvise);
    else if (!strcmp(name, "mmap-flags"))
        by_mmap_flags();
    else if (!strcmp(name, "undumpable"))
        undumpable();
    else
        return 2;
    printf("done\n");
    return 0;
}
