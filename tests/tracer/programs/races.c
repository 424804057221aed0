/* One thread's calls fail at the host, or edit nothing, while another's are changing the same pages. */
#include "lab.h"
#include <stdatomic.h>

static char *shared;
static atomic_int over;

static void *advise(void *arg)
{
    while (!over) {
        madvise(shared, 64 * PAGE, MADV_POPULATE_READ);
        madvise(shared, 64 * PAGE, MADV_POPULATE_WRITE);
        madvise(shared, 64 * PAGE, MADV_DONTNEED);
        msync(shared, 64 * PAGE, MS_SYNC);
    }
    return arg;
}

int main(int argc, char **argv)
{
    pthread_t id[3];
    int rounds = argc > 1 ? atoi(argv[1]) : 40;
    shared = mmap((void *)0x200000000, 64 * PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
    if (shared == MAP_FAILED)
        fail("mmap");
    for (int t = 0; t < 3; t++)
        pthread_create(&id[t], NULL, advise, NULL);
    for (int i = 0; i < rounds; i++) {
        if (mprotect(shared + 60 * PAGE, 4 * PAGE, PROT_NONE))
            fail("mprotect to nothing");
        for (int page = 0; page < 60; page += 4)
            if (mprotect(shared + page * PAGE, PAGE, PROT_READ))
                fail("mprotect");
        if (mprotect(shared, 64 * PAGE, PROT_READ) || mprotect(shared, 64 * PAGE, RW))
            fail("mprotect of all");
        if (munmap(shared + 8 * PAGE, 8 * PAGE) || munmap(shared, 32 * PAGE))
            fail("munmap");
        if (mmap(shared, 64 * PAGE, RW, ANON | MAP_FIXED, -1, 0) != shared)
            fail("mmap of all");
    }
    over = 1;
    for (int t = 0; t < 3; t++)
        pthread_join(id[t], NULL);
    printf("done\n");
    return 0;
}
