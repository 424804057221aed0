/* Three places that make redundant mprotect calls: in a shared library (sites_lib.c), in a function that is inlined, in
   a thread. From each some calls change something; from `toggle` all do. How many there are is in test_callers.py. */
#include "lab.h"

void seal(char *at, long pages, int prot);

#define OPAQUE __attribute__((noinline, noipa))

static inline __attribute__((always_inline)) void open_pages(char *at, long pages, int prot)
{
    if (mprotect(at, pages * PAGE, prot))
        fail("open_pages");
}

OPAQUE static void toggle(char *at, int times)
{
    for (int i = 0; i < times; i++)
        if (mprotect(at, PAGE, i % 2 ? RW : PROT_READ))
            fail("toggle");
}

OPAQUE static void fill(char *at, int times)
{
    for (int i = 0; i < times; i++)
        open_pages(at, 2, RW);
    open_pages(at, 2, PROT_READ);
    open_pages(at, 2, RW);
    at[0] = 1;
}

OPAQUE static void store(char *at, int times)
{
    for (int i = 0; i < times; i++)
        seal(at, 4, RW);
    for (int i = 0; i < 3; i++)
        seal(at, 4, i % 2 ? RW : PROT_READ);
    seal(at, 4, RW);
    at[0] = 1; /* no tail call */
}

OPAQUE static void *worker(void *arg)
{
    char *at = map(4, RW);
    (void)arg;
    for (int i = 0; i < 17; i++)
        if (mprotect(at, PAGE, RW))
            fail("worker");
    toggle(at, 5);
    munmap(at, 4 * PAGE);
    return 0;
}

int main(void)
{
    char *at = map(8, RW);
    pthread_t other;
    if (pthread_create(&other, 0, worker, 0))
        fail("pthread_create");
    store(at, 40);
    fill(at + 4 * PAGE, 25);
    toggle(at + 7 * PAGE, 6);
    pthread_join(other, 0);
    return 0;
}
