/* Calls that fail for several reasons at once: each line shows which of them the kernel gives. `errnos NAME`. */
#include "lab.h"
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#define HUGE_SIZE (2L << 20)
#define VALIDATE_ANON_HUGE (MAP_SHARED_VALIDATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE)

static void show(const char *what, long result)
{
    printf("%s: %s\n", what, result < 0 && result > -4096 ? strerror(-result) : "done");
}

static long map_at(long at, long length, long prot, long flags, long fd, long offset)
{
    return raw(SYS_mmap, at, length, prot, flags, fd, offset);
}

static int open_or_fail(const char *path, int flags)
{
    int fd = open(path, flags, 0600);
    if (fd < 0)
        fail(path);
    return fd;
}

/* A file of two pages in the current directory, which is the test's own. */
static int file_open(int flags)
{
    int fd = open_or_fail("file", O_CREAT | O_RDWR);
    if (ftruncate(fd, 2 * PAGE))
        fail("ftruncate");
    close(fd);
    return open_or_fail("file", flags);
}

static void descriptors(void)
{
    int path = file_open(O_PATH), neither = file_open(3), none = 999;
    show("O_PATH", map_at(0, PAGE, PROT_READ, MAP_PRIVATE, path, 0));
    show("O_PATH, length 0", map_at(0, 0, PROT_READ, MAP_PRIVATE, path, 0));
    show("access mode 3", map_at(0, PAGE, PROT_READ, MAP_PRIVATE, neither, 0));
    show("closed", map_at(0, PAGE, PROT_READ, MAP_PRIVATE, none, 0));
    show("closed, MAP_HUGETLB", map_at(0, PAGE, PROT_READ, MAP_PRIVATE | MAP_HUGETLB, none, 0));
    int status = open_or_fail("/proc/self/status", O_RDONLY);
    show("/proc", map_at(0, PAGE, PROT_READ, MAP_PRIVATE, status, 0));
    show("/proc, EXEC", map_at(0, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, status, 0));
    show("/proc, GROWSDOWN", map_at(0, PAGE, PROT_READ, MAP_PRIVATE | MAP_GROWSDOWN, status, 0));
    show("/proc, EXEC, GROWSDOWN",
         map_at(0, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_GROWSDOWN, status, 0));
    int zero = open_or_fail("/dev/zero", O_RDWR), null = open_or_fail("/dev/null", O_RDWR);
    show("/dev/zero, GROWSDOWN", map_at(0, PAGE, PROT_READ, MAP_PRIVATE | MAP_GROWSDOWN, zero, 0));
    show("/dev/null, GROWSDOWN", map_at(0, PAGE, PROT_READ, MAP_PRIVATE | MAP_GROWSDOWN, null, 0));
    int sealed = memfd_create("sealed", MFD_ALLOW_SEALING);
    if (ftruncate(sealed, PAGE) || fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE))
        fail("F_SEAL_WRITE");
    show("sealed", map_at(0, PAGE, RW, MAP_SHARED, sealed, 0));
    show("sealed, GROWSDOWN", map_at(0, PAGE, RW, MAP_SHARED | MAP_GROWSDOWN, sealed, 0));
    int append = file_open(O_WRONLY | O_APPEND);
    show("write-only, GROWSDOWN", map_at(0, PAGE, PROT_READ, MAP_PRIVATE | MAP_GROWSDOWN, append, 0));
}

static void validate(void)
{
    int fd = file_open(O_RDWR);
    show("bit 32", map_at(0, PAGE, PROT_READ, MAP_SHARED_VALIDATE | 1L << 32, fd, 0));
    show("bit 40, NOREPLACE",
         map_at(0, PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_FIXED_NOREPLACE | 1L << 40, fd, 0));
    show("bit 32, MAP_SHARED", map_at(0, PAGE, PROT_READ, MAP_SHARED | 1L << 32, fd, 0));
    show("bit 63, MAP_PRIVATE", map_at(0, PAGE, PROT_READ, MAP_PRIVATE | 1L << 63, fd, 0));
    show("anonymous", map_at(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0));
}

/* No page of these is touched: this works without a reservation of huge pages. */
static void huge(void)
{
    long at = ((long)map(2 * HUGE_SIZE / PAGE, PROT_NONE) + HUGE_SIZE - 1) & -HUGE_SIZE;
    long flags = ANON | MAP_HUGETLB | MAP_NORESERVE;
    int plain = file_open(O_RDWR);
    show("validate", map_at(0, HUGE_SIZE, RW, VALIDATE_ANON_HUGE, -1, 0));
    show("validate, fixed", map_at(at, HUGE_SIZE, RW, VALIDATE_ANON_HUGE | MAP_FIXED, -1, 0));
    show("shared", map_at(0, HUGE_SIZE, RW, VALIDATE_ANON_HUGE & ~2, -1, 0));
    show("validate, bit 32", map_at(0, HUGE_SIZE, RW, VALIDATE_ANON_HUGE | 1L << 32, -1, 0));
    show("NOREPLACE, unaligned", map_at(at + PAGE, HUGE_SIZE, RW, flags | MAP_FIXED_NOREPLACE, -1, 0));
    show("NOREPLACE, taken", map_at(at, HUGE_SIZE, RW, flags | MAP_FIXED_NOREPLACE, -1, 0));
    show("fixed, unaligned", map_at(at + PAGE, HUGE_SIZE, RW, flags | MAP_FIXED, -1, 0));
    show("fixed at the end", map_at(-PAGE, PAGE, RW, flags | MAP_FIXED, -1, 0));
    show("GROWSDOWN", map_at(0, HUGE_SIZE, RW, flags | MAP_GROWSDOWN, -1, 0));
    show("droppable", map_at(0, HUGE_SIZE, RW, MAP_DROPPABLE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
    show("no such size", map_at(0, HUGE_SIZE, RW, flags | 13 << 26, -1, 0));
    show("length 0", map_at(0, 0, RW, flags, -1, 0));
    show("length -1", map_at(0, -1, RW, flags, -1, 0));
    show("plain file", map_at(0, PAGE, RW, MAP_SHARED | MAP_HUGETLB, plain, 0));
    show("plain file at the end", map_at(-PAGE, PAGE, RW, MAP_SHARED | MAP_FIXED | MAP_HUGETLB, plain, 0));
    int device = open_or_fail("/dev/zero", O_RDWR);
    show("device at the end", map_at(-PAGE, PAGE, RW, MAP_SHARED | MAP_FIXED | MAP_HUGETLB, device, 0));
    show("device", map_at(0, PAGE, RW, MAP_PRIVATE | MAP_HUGETLB, device, 0));
    int memory = memfd_create("huge", MFD_HUGETLB);
    if (memory < 0) {
        show("MFD_HUGETLB", -errno);
        return;
    }
    long page = map_at(0, PAGE, RW, MAP_SHARED | MAP_NORESERVE, memory, 0);
    show("one page of a huge file", page);
    show("munmap of one page", raw(SYS_munmap, page, PAGE, 0, 0, 0, 0));
    show("munmap of all", raw(SYS_munmap, page, HUGE_SIZE, 0, 0, 0, 0));
    show("huge file, unaligned", map_at(at + PAGE, PAGE, RW, MAP_SHARED | MAP_FIXED, memory, 0));
    show("huge file, unaligned offset", map_at(0, PAGE, RW, MAP_SHARED | MAP_NORESERVE, memory, PAGE));
}

static void no_privileges(long locked)
{
    struct rlimit limit = {locked, locked};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) || setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
        fail("setrlimit");
}

static void locked_calls(long limit)
{
    long at = (long)map(64, PROT_NONE), low = 4 * PAGE;
    int rw = file_open(O_RDWR), ro = file_open(O_RDONLY), wo = file_open(O_WRONLY);
    long flags[] = {MAP_LOCKED, 0};
    no_privileges(limit);
    for (int future = 0; future < 2; future++) {
        long more = flags[future];
        show("anonymous", map_at(0, 32 * PAGE, RW, ANON | more, -1, 0));
        show("no type", map_at(0, 32 * PAGE, RW, MAP_ANONYMOUS | more, -1, 0));
        show("shared, GROWSDOWN", map_at(0, 32 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN | more, -1, 0));
        show("droppable", map_at(0, 32 * PAGE, RW, MAP_DROPPABLE | MAP_ANONYMOUS | more, -1, 0));
        show("write-only", map_at(0, 32 * PAGE, PROT_READ, MAP_PRIVATE | more, wo, 0));
        show("read-only, shared", map_at(0, 32 * PAGE, RW, MAP_SHARED | more, ro, 0));
        show("validate", map_at(0, 32 * PAGE, RW, MAP_SHARED_VALIDATE | 0x200 | more, rw, 0));
        show("beyond the file", map_at(0, 32 * PAGE, RW, MAP_SHARED | more, rw, 0x7fffffffffffe000));
        show("unaligned", map_at(at + 1, 32 * PAGE, RW, ANON | MAP_FIXED | more, -1, 0));
        show("unaligned, write-only", map_at(at + 1, 32 * PAGE, RW, MAP_PRIVATE | MAP_FIXED | more, wo, 0));
        show("NOREPLACE", map_at(at, 32 * PAGE, RW, ANON | MAP_FIXED_NOREPLACE | more, -1, 0));
        show("low", map_at(low, 32 * PAGE, RW, ANON | MAP_FIXED | more, -1, 0));
        show("low, NOREPLACE", map_at(low, 32 * PAGE, RW, ANON | MAP_FIXED_NOREPLACE | more, -1, 0));
        show("low, no type", map_at(low, 32 * PAGE, RW, MAP_ANONYMOUS | MAP_FIXED | more, -1, 0));
        show("huge, unaligned", map_at(at + PAGE, HUGE_SIZE, RW, ANON | MAP_HUGETLB | MAP_FIXED | more, -1, 0));
        show("W and X", map_at(0, 32 * PAGE, 7, ANON | more, -1, 0));
        show("mlockall", raw(SYS_mlockall, MCL_FUTURE, 0, 0, 0, 0, 0));
    }
    show("one page", map_at(at, PAGE, RW, ANON | MAP_FIXED, -1, 0));
    show("mremap", raw(SYS_mremap, at, PAGE, 32 * PAGE, 0, 0, 0));
    show("mremap that moves", raw(SYS_mremap, at, PAGE, 32 * PAGE, MREMAP_MAYMOVE, 0, 0));
    show("munlockall", raw(SYS_munlockall, 0, 0, 0, 0, 0, 0));
}

static void locked(void)
{
    prctl(65, 1, 0, 0, 0); /* PR_SET_MDWE */
    locked_calls(16 * PAGE);
}

/* can_do_mlock: without a limit nothing may be locked at all. */
static void unlockable(void)
{
    locked_calls(0);
}

static void keys(void)
{
    char *at = map(8, RW);
    munmap(at + 2 * PAGE, 4 * PAGE);
    for (long key = -2; key < 18; key += 3) {
        printf("key %ld\n", key);
        show("mapped", raw(SYS_pkey_mprotect, (long)at, PAGE, RW, key, 0, 0));
        show("not mapped", raw(SYS_pkey_mprotect, (long)at + 2 * PAGE, PAGE, RW, key, 0, 0));
        show("a hole", raw(SYS_pkey_mprotect, (long)at, 8 * PAGE, RW, key, 0, 0));
        show("GROWSDOWN", raw(SYS_pkey_mprotect, (long)at, PAGE, RW | PROT_GROWSDOWN, key, 0, 0));
        show("unaligned", raw(SYS_pkey_mprotect, (long)at + 1, PAGE, RW, key, 0, 0));
        show("length 0", raw(SYS_pkey_mprotect, (long)at, 0, RW, key, 0, 0));
        show("too long", raw(SYS_pkey_mprotect, (long)at, -PAGE, RW, key, 0, 0));
        show("no such protection", raw(SYS_pkey_mprotect, (long)at, PAGE, 0x10, key, 0, 0));
    }
}

/* A refused mapping for execution alone takes a key all the same (execute_only_pkey), and the next one is another. */
static void execution(void)
{
    char *at = map(8, RW);
    show("no type", map_at((long)at, PAGE, PROT_EXEC, MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    printf("pkey_alloc: %ld\n", raw(SYS_pkey_alloc, 0, 0, 0, 0, 0, 0));
    prctl(65, 1, 0, 0, 0); /* PR_SET_MDWE */
    fflush(stdout);
    if (fork() == 0) {
        printf("pkey_free: %ld\n", raw(SYS_pkey_free, 1, 0, 0, 0, 0, 0));
        show("mprotect", raw(SYS_mprotect, (long)at + PAGE, PAGE, PROT_EXEC, 0, 0, 0));
        printf("pkey_alloc: %ld\n", raw(SYS_pkey_alloc, 0, 0, 0, 0, 0, 0));
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
}

/* An address in the last page is taken for an errno (IS_ERR_VALUE). */
static void last_page(void)
{
    for (long below = 1; below <= 4097; below += 1024)
        printf("%ld below: %ld\n", below, map_at(-below, PAGE, RW, ANON | MAP_FIXED, -1, 0));
}

/* Refused calls that split a VMA on the way, and two neighbors that look alike: growing both is EFAULT. */
static void neighbors(void)
{
    char *at = map(64, PROT_NONE);
    char *pages = mmap(at, 16 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    memset(pages, 1, 16 * PAGE);
    show("mseal", raw(462, (long)pages + 8 * PAGE, PAGE, 0, 0, 0, 0)); /* mseal, Linux 6.10 */
    show("munmap", raw(SYS_munmap, (long)pages + 4 * PAGE, 8 * PAGE, 0, 0, 0, 0));
    show("mremap grows", raw(SYS_mremap, (long)pages + 3 * PAGE, 2 * PAGE, 3 * PAGE, 0, 0, 0));
    show("mmap", map_at((long)pages + 2 * PAGE, 8 * PAGE, RW, ANON | MAP_FIXED, -1, 0));
    show("mremap grows", raw(SYS_mremap, (long)pages + PAGE, 2 * PAGE, 3 * PAGE, 0, 0, 0));
    show("mremap moves onto it",
         raw(SYS_mremap, (long)pages, PAGE, 8 * PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, (long)pages + 6 * PAGE, 0));
    show("mremap grows", raw(SYS_mremap, (long)pages + 5 * PAGE, 2 * PAGE, 3 * PAGE, 0, 0, 0));

    char *first = mmap(at + 32 * PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0);
    char *third = mmap(at + 34 * PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0);
    first[0] = third[0] = 1;
    mmap(at + 33 * PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0);
    show("mremap grows two", raw(SYS_mremap, (long)first, 3 * PAGE, 4 * PAGE, 0, 0, 0));
    show("mremap grows the last", raw(SYS_mremap, (long)third, PAGE, 2 * PAGE, 0, 0, 0));
    show("mremap of both moves", raw(SYS_mremap, (long)first, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE, 0, 0));
}

static int gains_execution(void)
{
    char *at = map(2, RW);
    int first = mmap(NULL, PAGE, 7, ANON, -1, 0) == MAP_FAILED ? errno : 0;
    int second = mprotect(at, PAGE, PROT_READ | PROT_EXEC) ? errno : 0;
    printf("mmap %s, mprotect %s\n", strerror(first), strerror(second));
    fflush(stdout);
    return 0;
}

static void denies(long bits)
{
    printf("PR_SET_MDWE: %s\n", prctl(65, bits, 0, 0, 0) ? strerror(errno) : "done");
    gains_execution();
    if (fork() == 0)
        _exit(gains_execution());
    wait(NULL);
    if (vfork() == 0)
        _exit(gains_execution());
    wait(NULL);
}

static void mdwe(void)
{
    denies(1);
}

static void mdwe_not_inherited(void)
{
    denies(3);
    denies(1);
}

/* In a new IPC namespace the first segment has the id 0. */
static void segment(void)
{
    if (unshare(CLONE_NEWIPC)) {
        printf("skip: CLONE_NEWIPC: %s\n", strerror(errno));
        return;
    }
    for (int i = 0; i < 2; i++) {
        int id = shmget(IPC_PRIVATE, 4 * PAGE, IPC_CREAT | 0600);
        char *at = shmat(id, NULL, 0);
        printf("segment %d\n", id);
        at[0] = 1;
        show("mprotect", raw(SYS_mprotect, (long)at + PAGE, PAGE, PROT_READ, 0, 0, 0));
        show("shmdt", raw(SYS_shmdt, (long)at, 0, 0, 0, 0, 0));
        show("shmdt twice", raw(SYS_shmdt, (long)at, 0, 0, 0, 0, 0));
    }
}

/* Lengths around the sizes of large folios; the addresses themselves, since randomization is off. */
static void shared(void)
{
    for (int i = 0; i < 3; i++)
        for (long pages = 1; pages <= 2048; pages = pages * 2 + i % 2) {
            void *at = mmap(NULL, pages * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            printf("%ld pages: %p\n", pages, at);
            at = mmap((char *)0x10000000 + i * PAGE, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            printf("at a hint: %p\n", at);
            at = mmap(NULL, PAGE, RW, ANON, -1, 0);
            printf("private: %p\n", at);
        }
}

static const struct {
    const char *name;
    void (*run)(void);
} PARTS[] = {{"descriptors", descriptors}, {"validate", validate},     {"huge", huge},
             {"locked", locked},           {"unlockable", unlockable}, {"keys", keys},
             {"neighbors", neighbors},     {"mdwe", mdwe},             {"mdwe-not-inherited", mdwe_not_inherited},
             {"segment", segment},         {"shared", shared},         {"execution", execution},
             {"last-page", last_page}};

int main(int argc, char **argv)
{
    for (unsigned i = 0; argc > 1 && i < sizeof PARTS / sizeof *PARTS; i++)
        if (strcmp(argv[1], PARTS[i].name) == 0) {
            PARTS[i].run();
            return 0;
        }
    return 2;
}
