/* A mapping placed by MAP_FIXED over one of equal attributes looks redundant, and is not: it must bring fresh
   contents, however the old ones came to be written. Each case writes in another way. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 8, RW = PROT_READ | PROT_WRITE, ANON = MAP_PRIVATE | MAP_ANONYMOUS };

static size_t page, length;
static int failures, file;

static char *map(char *at, int prot, int flags, int fd)
{
    char *result = mmap(at, length, prot, flags | (at ? MAP_FIXED : 0), fd, 0);
    if (result == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return result;
}

/* Whether every page starts with the byte that it should: 0 for anonymous memory, 'a' + n in the file. */
static void expect(const char *name, const char *base, int first, int step)
{
    for (int n = 0; n < PAGES; n++)
        if (base[n * page] != (first ? first + n * step : 0)) {
            printf("%s: page %d holds %d\n", name, n, base[n * page]);
            failures++;
            return;
        }
}

static void write_all(char *base)
{
    for (int n = 0; n < PAGES; n++)
        base[n * page] = (char)(100 + n);
}

static void write_last(char *base) { base[length - page] = 1; }

static void write_nothing(char *base) { (void)base; }

static void read_all(char *base)
{
    volatile char sum = 0;
    for (int n = 0; n < PAGES; n++)
        sum = (char)(sum + base[n * page]);
}

static void *thread(void *base)
{
    write_all(base);
    return NULL;
}

static void write_by_thread(char *base)
{
    pthread_t other;
    pthread_create(&other, NULL, thread, base);
    pthread_join(other, NULL);
}

static void write_by_read(char *base)
{
    if (pread(file, base, length, 1) < 0)
        perror("pread");
}

static void write_by_proc_mem(char *base)
{
    int self = open("/proc/self/mem", O_RDWR);
    if (self < 0 || pwrite(self, "x", 1, (off_t)(size_t)base) != 1)
        base[0] = 'x';
    if (self >= 0)
        close(self);
}

static void write_by_vm_writev(char *base)
{
    char byte = 'x';
    struct iovec local = {&byte, 1}, remote = {base + page, 1};
    if (process_vm_writev(getpid(), &local, 1, &remote, 1, 0) != 1)
        base[page] = 'x';
}

static void write_then_protect(char *base)
{
    write_all(base);
    mprotect(base, length, PROT_READ);
    mprotect(base, length, RW);
}

static void write_then_move(char *base)
{
    char *other = map(NULL, RW, ANON, -1);
    write_all(other);
    if (mremap(other, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, base) == MAP_FAILED)
        perror("mremap");
}

static void write_before_fork(char *base)
{
    write_all(base);
    pid_t child = fork();
    if (child == 0) {
        map(base, RW, ANON, -1);
        expect("in a child", base, 0, 0);
        fflush(stdout);
        _exit(failures != 0);
    }
    int status;
    waitpid(child, &status, 0);
    failures += status != 0;
    expect("parent of that child", base, 100, 1);
}

static const struct {
    const char *name;
    void (*write)(char *);
} writers[] = {
    {"every page", write_all},
    {"one page", write_last},
    {"nothing", write_nothing},
    {"only read", read_all},
    {"by a thread", write_by_thread},
    {"by read()", write_by_read},
    {"by /proc/self/mem", write_by_proc_mem},
    {"by process_vm_writev()", write_by_vm_writev},
    {"before mprotect() and back", write_then_protect},
};

int main(void)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    length = PAGES * page;
    char path[] = "remap_trap.XXXXXX";
    file = mkstemp(path);
    unlink(path);
    for (int n = 0; n < PAGES; n++) {
        char bytes[2] = {(char)('a' + n), 'Z'};
        if (pwrite(file, bytes, 2, n * (off_t)page) != 2)
            perror("pwrite");
    }
    if (ftruncate(file, (off_t)length))
        perror("ftruncate");

    for (size_t n = 0; n < sizeof writers / sizeof writers[0]; n++) {
        char *base = map(NULL, RW, ANON, -1);
        for (int round = 0; round < 3; round++) {
            writers[n].write(base);
            map(base, RW, ANON, -1);
            expect(writers[n].name, base, 0, 0);
        }
        munmap(base, length);

        base = map(NULL, RW, MAP_PRIVATE, file);
        for (int round = 0; round < 3; round++) {
            writers[n].write(base);
            map(base, RW, MAP_PRIVATE, file);
            expect(writers[n].name, base, 'a', 1);
        }
        munmap(base, length);
    }

    char *moved = map(NULL, RW, ANON, -1);
    write_then_move(moved);
    map(moved, RW, ANON, -1);
    expect("moved here", moved, 0, 0);

    char *forked = map(NULL, RW, ANON, -1);
    write_before_fork(forked);
    map(forked, RW, ANON, -1);
    expect("after a fork", forked, 0, 0);

    char *closed = map(NULL, RW, ANON, -1);
    write_all(closed);
    mprotect(closed, length, PROT_READ);
    map(closed, PROT_READ, ANON, -1);
    expect("read-only", closed, 0, 0);
    write_nothing(map(closed, PROT_READ, ANON, -1));
    expect("read-only again", closed, 0, 0);

    char *shared = map(NULL, RW, MAP_SHARED | MAP_ANONYMOUS, -1);
    write_all(shared);
    map(shared, RW, MAP_SHARED | MAP_ANONYMOUS, -1);
    expect("shared", shared, 0, 0);

    char *seen = map(NULL, RW, MAP_SHARED, file);
    write_all(seen);
    map(seen, RW, MAP_SHARED, file);
    expect("shared file", seen, 100, 1);

    puts(failures ? "FAILED" : "OK");
    return failures != 0;
}
