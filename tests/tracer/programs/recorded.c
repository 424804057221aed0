/* Programs that say themselves what a trace of them must hold: touched pages, their own maps, how far they came. */
#include "lab.h"

#include <sys/prctl.h>
#include <sys/shm.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

static void touch(char *at)
{
    at[1 * PAGE] = at[2 * PAGE] = at[5 * PAGE] = 1;
    (void)*(volatile char *)(at + 9 * PAGE);
}

static char *small_pages(long pages)
{
    char *at = map(pages, RW);
    madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
    return at;
}

/* Says "CALL ADDRESS" of each call whose row must have the pages 1, 2 and 5 written, and page 9 read. */
static void touches(const char *path)
{
    char *at = small_pages(16);
    touch(at);
    printf("mprotect %p\n", (void *)at);
    mprotect(at, 16 * PAGE, PROT_READ);
    printf("munmap %p\n", (void *)at);
    munmap(at, 16 * PAGE);

    at = small_pages(16);
    touch(at);
    printf("madvise %p\n", (void *)at);
    madvise(at, 16 * PAGE, MADV_DONTNEED);
    printf("untouched %p\n", (void *)at);
    munmap(at, 16 * PAGE);

    at = small_pages(16);
    touch(at);
    printf("mmap %p\n", (void *)at);
    mmap(at, 16 * PAGE, PROT_NONE, ANON | MAP_FIXED, -1, 0);

    at = small_pages(16);
    touch(at);
    printf("mremap %p\n", (void *)at);
    mremap(at, 16 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, small_pages(16));

    int fd = open(path, O_RDONLY);
    at = mmap(NULL, 16 * PAGE, RW, MAP_PRIVATE, fd, 0);
    at[1 * PAGE] = at[2 * PAGE] = at[5 * PAGE] = 1;
    printf("file %p\n", (void *)at);
    munmap(at, 16 * PAGE);

    /* Reserved and never touched: a part is made accessible and given back. */
    at = mmap(NULL, 64L << 30, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    mprotect(at, 32L << 30, RW);
    mprotect(at, 32L << 30, PROT_NONE);
    munmap(at, 16L << 30);
    printf("reserved %p\n", (void *)at);

    char *left = small_pages(16);
    touch(left);
    printf("exit %p\n", (void *)left);
    fflush(stdout);
}

/* Writes this process's maps to the file PATH.NUMBER, by no memory call, then marks the moment by one that fails. */
static void save_maps(const char *path, long number)
{
    static char buffer[1 << 20], name[4096];
    long length = 0, got;
    snprintf(name, sizeof name, "%s.%ld", path, number);
    int in = open("/proc/self/maps", O_RDONLY), out = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while ((got = read(in, buffer + length, sizeof buffer - length)) > 0)
        length += got;
    if (write(out, buffer, length) != length)
        fail("write");
    close(in);
    close(out);
    raw(SYS_madvise, 1, number, 77, 0, 0, 0);
}

static __attribute__((noinline)) int deep(int levels)
{
    volatile char page[PAGE];
    page[0] = (char)levels;
    return levels ? deep(levels - 1) + page[0] : 0;
}

static void *rest(void *arg)
{
    (void)arg;
    pause();
    return NULL;
}

static void maps(const char *path)
{
    save_maps(path, 0);
    char *heap = sbrk(40 * PAGE), *at = map(64, RW);
    heap[0] = 1;
    stripe(at, 16);
    munmap(at + 20 * PAGE, 4 * PAGE);
    mprotect(at + 30 * PAGE, 4 * PAGE, PROT_NONE);
    save_maps(path, 1);

    int fd = memfd_create("a name", 0);
    if (ftruncate(fd, 8 * PAGE))
        fail("ftruncate");
    char *shared = mmap(NULL, 8 * PAGE, RW, MAP_SHARED, fd, 0);
    mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 2 * PAGE);
    mmap(NULL, 3 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    mprotect(shared + 2 * PAGE, PAGE, PROT_READ);
    mremap(shared + 4 * PAGE, 2 * PAGE, 6 * PAGE, MREMAP_MAYMOVE);
    int odd = open("odd\nname", O_RDWR | O_CREAT, 0600);
    if (ftruncate(odd, 4 * PAGE))
        fail("ftruncate");
    mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, odd, PAGE);
    unlink("odd\nname");
    int id = shmget(IPC_PRIVATE, 3 * PAGE, 0600);
    if (id >= 0 && shmat(id, NULL, 0) == (void *)-1)
        fail("shmat");
    shmctl(id, IPC_RMID, NULL);
    prctl(PR_SET_VMA, 0, at + 40 * PAGE, 2 * PAGE, "some memory");
    prctl(PR_SET_VMA, 0, heap, PAGE, "some heap");
    mmap(NULL, 4 * PAGE, RW, ANON | MAP_GROWSDOWN, -1, 0);
    pthread_t thread;
    pthread_create(&thread, NULL, rest, NULL);
    save_maps(path, 2);

    deep(300);
    mmap(NULL, PAGE, RW, ANON, -1, 0);
    save_maps(path, 3);
    _exit(0);
}

/* Makes calls for ever; the file PATH holds how many have ended, and the time at which each of them did. */
static void progress(const char *path, long pause_ns)
{
    enum { ROOM = 1 << 21 };
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (ftruncate(fd, (ROOM + 1) * 8L))
        fail("ftruncate");
    volatile long *done = mmap(NULL, (ROOM + 1) * 8L, RW, MAP_SHARED, fd, 0);
    char *at = map(2, RW);
    for (long i = 0; i < ROOM; i++) {
        struct timespec now, rest = {0, pause_ns};
        mprotect(at, 2 * PAGE, i % 2 ? RW : PROT_READ);
        clock_gettime(CLOCK_MONOTONIC, &now);
        done[1 + i] = now.tv_sec * 1000000000L + now.tv_nsec;
        done[0] = i + 1;
        if (pause_ns)
            nanosleep(&rest, NULL);
    }
}

/* Process calls that fail, and such that do not. */
static void fails(void)
{
    char *const words[] = {"nothing", NULL};
    execve("/no/such/program", words, words);
    execve("/etc", words, words);
    raw(SYS_clone, CLONE_THREAD, 0, 0, 0, 0, 0);
    raw(SYS_clone3, 0, 8, 0, 0, 0, 0);
    pid_t pid = vfork();
    if (!pid) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    waitpid(pid, NULL, 0);
    pid = fork();
    if (!pid) {
        map(3, RW)[0] = 1;
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, NULL, 0);
    _exit(7);
}

/* A child hides its memory from others of its user before its first memory call, which discards what was touched. */
static void hides(void)
{
    char *at = small_pages(16);
    touch(at);
    pid_t pid = fork();
    if (!pid) {
        prctl(PR_SET_DUMPABLE, 0);
        madvise(at, 16 * PAGE, MADV_DONTNEED);
        printf(at[PAGE] ? "WRONG: not discarded\n" : "discarded\n");
        return;
    }
    waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "", *path = argc > 2 ? argv[2] : "";
    if (!strcmp(name, "touches"))
        touches(path);
    else if (!strcmp(name, "maps"))
        maps(path);
    else if (!strcmp(name, "progress"))
        progress(path, argc > 3 ? atol(argv[3]) : 0);
    else if (!strcmp(name, "fails"))
        fails();
    else if (!strcmp(name, "hides"))
        hides();
    else
        return 2;
    return 0;
}
