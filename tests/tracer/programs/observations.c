/* What a program observes of its own memory calls: results, errno and contents. `observations NAME`. */
#include "lab.h"
#include <sys/resource.h>

#define AT ((char *)0x100000000000)

static void say(const char *what, long result)
{
    printf("%s: %ld %s\n", what, result, result == -1 ? strerror(errno) : "");
}

static char *fixed(char *at, long pages, int flags)
{
    char *place = mmap(at, pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags, -1, 0);
    if (place != at)
        fail("mmap at a fixed address");
    return place;
}

static int is_mapped(const char *page)
{
    unsigned char state;
    return mincore((void *)page, PAGE, &state) == 0;
}

/* Pages that grew stay known when the VMA that they grew from is gone. */
static void growth_outlives_its_origin(void)
{
    char *stack = fixed(AT, 1, MAP_GROWSDOWN);
    stack[-2 * PAGE] = 7;
    say("munmap of the origin", munmap(stack, PAGE));
    say("mprotect of what grew", mprotect(stack - 2 * PAGE, PAGE, PROT_READ));
    say("its contents", stack[-2 * PAGE]);
    say("munmap of what grew", munmap(stack - 2 * PAGE, 2 * PAGE));
    say("is mapped", is_mapped(stack - 2 * PAGE));
}

static void growth_outlives_a_move(void)
{
    char *stack = fixed(AT, 2, MAP_GROWSDOWN);
    stack[-3 * PAGE] = 7;
    char *target = AT + (1L << 30);
    char *moved = mremap(stack, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    say("moved", moved == target);
    say("munmap of what grew", munmap(stack - 3 * PAGE, 3 * PAGE));
    say("is mapped", is_mapped(stack - 3 * PAGE));
}

/* A MAP_FIXED mapping that is refused leaves all as it was. */
static void refused_mapping(void)
{
    fixed(AT, 64, 0);
    AT[32 * PAGE] = 5;
    struct rlimit limit = {256L << 20, RLIM_INFINITY};
    say("setrlimit", setrlimit(RLIMIT_AS, &limit));
    void *place = mmap(AT, 1L << 30, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    say("mmap", place == MAP_FAILED ? -1 : 0);
    for (int page = 0; page < 80; page += 8)
        printf("page %d mapped %d\n", page, is_mapped(AT + page * PAGE));
    say("contents", AT[32 * PAGE]);
}

/* mlock of a range with a hole: RLIMIT_MEMLOCK counts all of it. */
static void refused_lock(void)
{
    struct rlimit limit = {16 * PAGE, 16 * PAGE};
    fixed(AT, 40, 0);
    munmap(AT + 20 * PAGE, PAGE);
    say("setrlimit", setrlimit(RLIMIT_MEMLOCK, &limit));
    if (setresuid(65534, 65534, 65534))
        fail("setresuid");
    say("mlock of 40 pages", mlock(AT, 40 * PAGE));
    say("mlock of 10 pages", mlock(AT + 12 * PAGE, 10 * PAGE));
    unsigned char state[40] = {0};
    mincore(AT, 20 * PAGE, state);
    for (int page = 0; page < 20; page++)
        printf("%d", state[page] & 1);
    printf("\n");
}

/* Every second page of 64 differs: one mprotect makes them equal. */
static void alternating(void)
{
    fixed(AT, 64, 0);
    for (int page = 0; page < 64; page += 2)
        if (mprotect(AT + page * PAGE, PAGE, PROT_READ))
            fail("mprotect of one page");
    say("mprotect of all", mprotect(AT, 64 * PAGE, RW));
    say("munmap of all", munmap(AT, 64 * PAGE));
}

/* The host aligns file mappings of 2 MiB and more: a place that only the host knows. */
static void resized_file(void)
{
    int file = memfd_create("file", 0);
    if (ftruncate(file, 4L << 20))
        fail("ftruncate");
    char *place = mmap(NULL, 1L << 20, RW, MAP_SHARED, file, 0);
    place[7] = 3;
    char *moved = mremap(place, 1L << 20, 2L << 20, MREMAP_MAYMOVE);
    say("contents", moved[7]);
    say("munmap", munmap(moved, 2L << 20));
}

int main(int count, char **words)
{
    struct {
        const char *name;
        void (*run)(void);
    } const cases[] = {
        {"growth-outlives-its-origin", growth_outlives_its_origin},
        {"growth-outlives-a-move", growth_outlives_a_move},
        {"refused-mapping", refused_mapping},
        {"refused-lock", refused_lock},
        {"alternating", alternating},
        {"resized-file", resized_file},
    };
    for (unsigned i = 0; count == 2 && i < sizeof cases / sizeof *cases; i++) {
        if (!strcmp(words[1], cases[i].name)) {
            cases[i].run();
            return 0;
        }
    }
    return 2;
}
