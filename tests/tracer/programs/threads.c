/* N threads change one address space at once, each on pages of its own and all on shared ones. */
#include "lab.h"

static char *shared;
static int rounds;

static void *work(void *arg)
{
    unsigned seed = (unsigned)(long)arg * 2654435761u + 1;
    for (int i = 0; i < rounds; i++) {
        char *own = map(8, RW);
        own[0] = 1;
        stripe(own, 8);
        if (mprotect(own, 8 * PAGE, PROT_READ))
            fail("mprotect of own pages");
        if (own[0] != 1)
            fail("own page lost its contents");
        if (munmap(own + 2 * PAGE, PAGE) || munmap(own, 8 * PAGE))
            fail("munmap of own pages");
        seed = seed * 1103515245u + 12345u;
        long page = seed >> 8 & 63, many = 1 + (seed >> 16 & 15);
        char *at = shared + page * PAGE;
        switch (seed >> 24 & 7) {
        case 0: mprotect(at, many * PAGE, PROT_READ); break;
        case 1: mprotect(at, many * PAGE, RW); break;
        case 2: munmap(at, many * PAGE); break;
        case 3: mmap(at, many * PAGE, PROT_NONE, ANON | MAP_FIXED, -1, 0); break;
        case 4: madvise(at, many * PAGE, MADV_DONTNEED); break;
        case 5: madvise(at, many * PAGE, MADV_POPULATE_READ); break;
        case 6: madvise(at, many * PAGE, MADV_DONTFORK); break;
        case 7: mmap(at, many * PAGE, RW, ANON | MAP_FIXED, -1, 0); break;
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 8;
    pthread_t id[64];
    rounds = argc > 2 ? atoi(argv[2]) : 30;
    /* Far below all others: a hole in it is never the place of a mapping that another thread makes. */
    shared = mmap((void *)0x200000000, 96 * PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
    if (shared == MAP_FAILED)
        fail("mmap of shared pages");
    for (long t = 0; t < threads; t++)
        if (pthread_create(&id[t], NULL, work, (void *)t))
            fail("pthread_create");
    for (int t = 0; t < threads; t++)
        pthread_join(id[t], NULL);
    printf("done\n");
    return 0;
}
