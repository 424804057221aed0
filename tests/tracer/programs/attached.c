/* Programs to attach to. Each prints "ready", works, and ends when its standard input is closed, or a wait is over. */
#include "lab.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <linux/futex.h>

#define THREADS 4

static volatile int over;
static volatile long rounds[THREADS];
static volatile sig_atomic_t received;

static void ready(void)
{
    printf("ready\n");
    fflush(stdout);
}

static void until_closed(void)
{
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    over = 1;
}

/* mmap, a redundant mprotect, and munmap, each checked. */
__attribute__((noinline)) void map_and_unmap(long pages)
{
    char *at = mmap(NULL, pages * PAGE, RW, ANON, -1, 0);
    if (at == MAP_FAILED)
        fail("mmap");
    at[0] = 1;
    if (mprotect(at, pages * PAGE, RW))
        fail("mprotect");
    if (munmap(at, pages * PAGE))
        fail("munmap");
}

static void *work(void *number)
{
    while (!over) {
        map_and_unmap(1 + (long)number);
        rounds[(long)number]++;
        usleep(5000);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t ids[THREADS];
    for (long i = 0; i < THREADS; i++)
        pthread_create(&ids[i], NULL, work, (void *)i);
    ready();
    until_closed();
    for (int i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
        if (!rounds[i])
            fail("a thread that did nothing");
    }
}

/* Memory calls without a pause; the first word of `count` is how many rounds there were. */
static void busy(void)
{
    char *page = map(1, RW);
    ready();
    for (unsigned i = 0; !over; i++) {
        map_and_unmap(3);
        page[0] = i;
        if (i % 64 == 0) {
            struct pollfd input = {0, POLLIN, 0};
            over = poll(&input, 1, 0) == 1;
        }
    }
}

/* The break to the byte, which /proc does not show; its first query comes after "ready". */
static void breaks(void)
{
    char byte;
    ready();
    if (read(0, &byte, 1) != 1)
        fail("a byte was to come");
    long before = raw(SYS_brk, 0, 0, 0, 0, 0, 0);
    long up = raw(SYS_brk, before + 5 * PAGE + 7, 0, 0, 0, 0, 0);
    long down = raw(SYS_brk, before + 7, 0, 0, 0, 0, 0);
    long refused = raw(SYS_brk, 1L << 46, 0, 0, 0, 0, 0);
    printf("%d %d %d\n", up == before + 5 * PAGE + 7, down == before + 7, refused == down);
}

static void on_signal(int number)
{
    (void)number;
    received++;
}

static void signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    ready();
    until_closed();
    printf("%d signals\n", (int)received);
}

/* The child runs in the memory of its parent, which waits in vfork, until there is a byte to read. */
static void vforks(void)
{
    char byte;
    ready();
    pid_t child = vfork();
    if (!child) {
        raw(SYS_read, 0, (long)&byte, 1, 0, 0, 0);
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    map_and_unmap(2);
    printf("the child: %d\n", status);
}

static int ends[2];

static long wait_in(long kind)
{
    struct timespec time = {1, 500000000};
    struct timeval as_timeval = {1, 500000};
    struct epoll_event event;
    struct pollfd input = {ends[0], POLLIN, 0};
    sigset_t none, user;
    fd_set set;
    char byte;
    int word = 0, fds[2], id;
    sigemptyset(&none);
    sigemptyset(&user);
    sigaddset(&user, SIGUSR2);
    switch (kind) {
    case 0: return nanosleep(&time, NULL);
    case 1: return clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
    case 2: return poll(&input, 1, 1500);
    case 3: FD_ZERO(&set); FD_SET(ends[0], &set); return select(ends[0] + 1, &set, NULL, NULL, &as_timeval);
    case 4: return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, NULL, 0);
    case 5: return epoll_wait(epoll_create1(0), &event, 1, 1500);
    case 6: return epoll_pwait(epoll_create1(0), &event, 1, 1500, &none);
    case 7: return sigtimedwait(&user, NULL, &time);
    case 8:
        socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
        setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &as_timeval, sizeof as_timeval);
        return recv(fds[0], &byte, 1, 0);
    case 9:
        id = semget(IPC_PRIVATE, 1, 0600);
        if (id < 0)
            return -1;
        struct sembuf down = {0, -1, 0};
        long result = semtimedop(id, &down, 1, &time);
        int error = errno;
        semctl(id, 0, IPC_RMID);
        errno = error;
        return result;
    default: return read(ends[0], &byte, 1);
    }
}

static const char *const names[] = {"nanosleep", "clock_nanosleep", "poll", "select", "futex", "epoll_wait",
                                    "epoll_pwait", "sigtimedwait", "recv", "semtimedop"};
#define KINDS (long)(sizeof names / sizeof *names)

static void *waiter(void *kind)
{
    char line[80];
    errno = 0;
    long result = wait_in((long)kind);
    snprintf(line, sizeof line, "%s %ld %d\n", names[(long)kind], result, errno);
    if (write(1, line, strlen(line)) < 0)
        _exit(1);
    return NULL;
}

/* Each wait in a thread of its own: what interrupted it, if anything did. */
static void waits(void)
{
    pthread_t ids[KINDS];
    sigset_t user;
    sigemptyset(&user);
    sigaddset(&user, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &user, NULL);
    char byte;
    if (pipe(ends))
        fail("pipe");
    ready();
    if (read(0, &byte, 1) != 1)
        fail("a byte was to come");
    for (long i = 0; i < KINDS; i++)
        pthread_create(&ids[i], NULL, waiter, (void *)i);
    for (int i = 0; i < KINDS; i++)
        pthread_join(ids[i], NULL);
}

/* A child ends while this waits in epoll_wait: SIGCHLD, which nobody handles, interrupts nothing. */
static void ignored(void)
{
    struct epoll_event event;
    if (!fork()) {
        usleep(100000);
        _exit(0);
    }
    errno = 0;
    int result = epoll_wait(epoll_create1(0), &event, 1, 300);
    printf("%d %d\n", result, errno);
}

int main(int argc, char **argv)
{
    const struct {
        const char *name;
        void (*run)(void);
    } modes[] = {{"threads", threads}, {"busy", busy},     {"breaks", breaks}, {"signals", signals},
                 {"vforks", vforks},   {"waits", waits},   {"ignored", ignored}};
    for (unsigned i = 0; argc == 2 && i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(argv[1], modes[i].name)) {
            modes[i].run();
            printf("done\n");
            return 0;
        }
    return 2;
}
