/* Every kind of memory call, each result printed and none fatal. The output is written by one call at the end. */
#include "lab.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static char text[16384];
static size_t used;
static long failures;

static long note(const char *name, long result)
{
    if (result < 0 && result > -4096)
        failures++;
    used += (size_t)snprintf(text + used, sizeof text - used, "%s %s%ld\n", name,
                             result < 0 && result > -4096 ? "errno " : "ok ", result < 0 && result > -4096 ? -result : 0);
    return result;
}

#define CALL(name, nr, ...) note(name, raw(nr, __VA_ARGS__))

int main(int argc, char **argv)
{
    char path[] = "/tmp/laconic-every-XXXXXX";
    int file = mkstemp(path);
    if (file < 0 || unlink(path) || ftruncate(file, 64 * PAGE))
        return 99;
    /* A reservation that the calls below work in: when one of them fails, those after it must still have a place. */
    long base = raw(SYS_mmap, 0, 256 * PAGE, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    note("reserve", base);
    if (base < 0)
        base = 0x10000000;
    long at = base + 16 * PAGE;
    CALL("mmap anonymous", SYS_mmap, 0, 3 * PAGE, RW, ANON, -1, 0);
    CALL("mmap file private", SYS_mmap, 0, 8 * PAGE, RW, MAP_PRIVATE, file, 0);
    CALL("mmap file shared", SYS_mmap, 0, 8 * PAGE, RW, MAP_SHARED, file, 0);
    CALL("mmap shared anonymous", SYS_mmap, 0, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CALL("mmap fixed", SYS_mmap, at, 32 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    CALL("mmap fixed file inside", SYS_mmap, at + 4 * PAGE, 4 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, file, 8 * PAGE);
    CALL("mmap fixed partly equal", SYS_mmap, at - 4 * PAGE, 16 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    CALL("mprotect one", SYS_mprotect, at, PAGE, PROT_READ, 0, 0, 0);
    CALL("mprotect another", SYS_mprotect, at + 2 * PAGE, PAGE, PROT_READ, 0, 0, 0);
    CALL("mprotect third", SYS_mprotect, at + 8 * PAGE, PAGE, PROT_READ, 0, 0, 0);
    CALL("mprotect mixed", SYS_mprotect, at, 16 * PAGE, PROT_READ, 0, 0, 0);
    CALL("mprotect back", SYS_mprotect, at + 3 * PAGE, 2 * PAGE, RW, 0, 0, 0);
    CALL("mprotect two runs", SYS_mprotect, at, 32 * PAGE, RW, 0, 0, 0);
    CALL("munmap splitting", SYS_munmap, at + 20 * PAGE, 2 * PAGE, 0, 0, 0, 0);
    CALL("munmap splitting again", SYS_munmap, at + 24 * PAGE, 2 * PAGE, 0, 0, 0, 0);
    CALL("munmap over holes", SYS_munmap, at + 18 * PAGE, 12 * PAGE, 0, 0, 0, 0);
    CALL("mmap for mremap", SYS_mmap, base + 100 * PAGE, 4 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    CALL("munmap behind", SYS_munmap, base + 104 * PAGE, 8 * PAGE, 0, 0, 0, 0);
    CALL("mremap grow", SYS_mremap, base + 100 * PAGE, 4 * PAGE, 8 * PAGE, 0, 0, 0);
    CALL("mremap shrink", SYS_mremap, base + 100 * PAGE, 8 * PAGE, 4 * PAGE, 0, 0, 0);
    CALL("mremap fixed", SYS_mremap, base + 100 * PAGE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
         base + 120 * PAGE, 0);
    CALL("mremap dontunmap", SYS_mremap, base + 120 * PAGE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0, 0);
    CALL("mremap grow and move", SYS_mremap, base + 120 * PAGE, 4 * PAGE, 64 * PAGE, MREMAP_MAYMOVE, 0, 0);
    long old = raw(SYS_brk, 0, 0, 0, 0, 0, 0);
    long more = raw(SYS_brk, old + 5 * PAGE, 0, 0, 0, 0, 0);
    used += (size_t)snprintf(text + used, sizeof text - used, "brk up %s\n",
                             more == old + 5 * PAGE ? "ok" : more == old ? "old break" : "WRONG");
    long less = raw(SYS_brk, old + 2 * PAGE, 0, 0, 0, 0, 0);
    used += (size_t)snprintf(text + used, sizeof text - used, "brk down %s\n",
                             less == old + 2 * PAGE ? "ok" : less == more ? "old break" : "WRONG");
    failures += (more == old) + (less == more);
    long here = base + 160 * PAGE;
    CALL("mmap for madvise", SYS_mmap, here, 32 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    CALL("madvise DONTFORK", SYS_madvise, here, PAGE, MADV_DONTFORK, 0, 0, 0);
    CALL("madvise DONTFORK 2", SYS_madvise, here + 4 * PAGE, PAGE, MADV_DONTFORK, 0, 0, 0);
    CALL("madvise DONTFORK all", SYS_madvise, here, 8 * PAGE, MADV_DONTFORK, 0, 0, 0);
    CALL("madvise DOFORK", SYS_madvise, here, 32 * PAGE, MADV_DOFORK, 0, 0, 0);
    CALL("madvise DONTDUMP", SYS_madvise, here, 2 * PAGE, MADV_DONTDUMP, 0, 0, 0);
    CALL("madvise WIPEONFORK", SYS_madvise, here + PAGE, 2 * PAGE, MADV_WIPEONFORK, 0, 0, 0);
    CALL("madvise HUGEPAGE", SYS_madvise, here, 16 * PAGE, MADV_HUGEPAGE, 0, 0, 0);
    CALL("madvise RANDOM", SYS_madvise, here, 3 * PAGE, MADV_RANDOM, 0, 0, 0);
    CALL("madvise POPULATE", SYS_madvise, here, 4 * PAGE, MADV_POPULATE_WRITE, 0, 0, 0);
    CALL("madvise DONTNEED", SYS_madvise, here, 16 * PAGE, MADV_DONTNEED, 0, 0, 0);
    CALL("madvise FREE", SYS_madvise, here, 4 * PAGE, MADV_FREE, 0, 0, 0);
    CALL("madvise WILLNEED", SYS_madvise, here, 16 * PAGE, MADV_WILLNEED, 0, 0, 0);
    CALL("mlock", SYS_mlock, here, 4 * PAGE, 0, 0, 0, 0);
    CALL("mlock2", SYS_mlock2, here + 2 * PAGE, 6 * PAGE, 1, 0, 0, 0);
    CALL("munlock", SYS_munlock, here + PAGE, 2 * PAGE, 0, 0, 0, 0);
    CALL("munlock two runs", SYS_munlock, here, 8 * PAGE, 0, 0, 0, 0);
    CALL("mlockall", SYS_mlockall, 1 | 4, 0, 0, 0, 0, 0);
    CALL("munlockall", SYS_munlockall, 0, 0, 0, 0, 0, 0);
    CALL("msync", SYS_msync, here, 4 * PAGE, MS_SYNC, 0, 0, 0);
    CALL("prctl SET_VMA", SYS_prctl, 0x53564d41, 0, here, 4 * PAGE, (long)"laconic", 0);
    CALL("munmap all", SYS_munmap, base, 256 * PAGE, 0, 0, 0, 0);
    used += (size_t)snprintf(text + used, sizeof text - used, "failures %ld\n", failures);
    for (size_t done = 0; done < used;) {
        ssize_t wrote = write(1, text + done, used - done);
        if (wrote <= 0)
            return 98;
        done += (size_t)wrote;
    }
    (void)argc, (void)argv;
    _exit(0);
}
