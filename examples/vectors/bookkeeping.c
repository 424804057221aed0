/* SPDX-License-Identifier: Apache-2.0 */
/* A small bookkeeping in C that follows the strategy every-call, or skip-equal with -DSKIP_EQUAL:
 * VMAs that never merge, and the PAL calls that Gramine makes for mmap, mprotect, munmap, madvise
 * and brk. What Gramine does around the calls (load, fork, threads) is not modeled, only the tables.
 *
 * -DJOIN joins neighboring Protects that change alike: compare with the runner's -j.
 * -DBUG=N plants one of ten bugs, which the vectors must find. */
#include "vectors.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef BUG
#define BUG 0
#endif
#ifdef JOIN
enum { joins = 1 };
#else
enum { joins = 0 };
#endif
enum {
    FORGETS_OFFSET = 1,  /* a split does not advance the file offset */
    NO_SPLIT_AT_END,     /* mprotect changes the whole of the last VMA */
    LOSES_RIGHT_PART,    /* munmap in the middle of a VMA loses what is right of it */
    FIXED_WITHOUT_FREE,  /* MAP_FIXED does not free what it replaces */
    FREES_HOLES,         /* munmap is one Free of the whole range */
    INVERTED_SKIP,       /* every-call skips equal mprotects; skip-equal does not */
    APPLIES_FAILURES,    /* the error of a call is ignored */
    OPEN_TAIL,           /* what a mapping has past the end of its file stays accessible */
    EAGER_NORESERVE,     /* MAP_NORESERVE is ignored */
    SHARED_WITH_CHILD,   /* fork does not copy the table */
};

#ifdef SKIP_EQUAL
enum { skip_equal = 1 ^ (BUG == INVERTED_SKIP) };
#else
enum { skip_equal = 0 ^ (BUG == INVERTED_SKIP) };
#endif

enum { PROCESSES = 1024, PAGE = 4096, GROWSDOWN = 0x01000000, NONE = VEC_UNKNOWN };

/* A VMA, or a run of pages. A VMA: valid_end is where the file ends, tainted 1 if it was ever
 * writable. A run of pages: vma.prot are the permissions, lazy 1 if the pages are not committed. */
struct range {
    struct vec_vma vma;
    uint64_t valid_end;
    int tainted, lazy;
};
struct ranges {
    struct range *at;
    size_t count, room;
};
struct process {
    struct ranges *vmas, *pages;
    uint64_t brk;
};

static struct process processes[PROCESSES];
static struct vec_pal *calls;
static size_t calls_begin, calls_end, calls_room;
static long counts[VEC_COUNTS];

/* ---- Arrays of ranges, ascending --------------------------------------------------------------- */

static void *grown(void *array, size_t *room, size_t size)
{
    *room = *room ? *room * 2 : 64;
    array = realloc(array, *room * size);
    if (!array)
        abort();
    return array;
}

/* The first range that ends above `address`. */
static size_t find(const struct ranges *ranges, uint64_t address)
{
    size_t at = 0;

    while (at < ranges->count && ranges->at[at].vma.end <= address)
        at++;
    return at;
}

static void insert(struct ranges *ranges, const struct range *range)
{
    size_t at = find(ranges, range->vma.start);

    if (ranges->count == ranges->room)
        ranges->at = grown(ranges->at, &ranges->room, sizeof *ranges->at);
    memmove(ranges->at + at + 1, ranges->at + at, (ranges->count - at) * sizeof *ranges->at);
    ranges->at[at] = *range;
    ranges->count++;
}

/* Splits the range that contains `address` there. */
static void split(struct ranges *ranges, uint64_t address)
{
    size_t at = find(ranges, address);
    struct range right;

    if (at == ranges->count || ranges->at[at].vma.start >= address)
        return;
    right = ranges->at[at];
    ranges->at[at].vma.end = address;
    if (right.vma.file && BUG != FORGETS_OFFSET)
        right.vma.offset += address - right.vma.start;
    right.vma.start = address;
    insert(ranges, &right);
}

/* Removes [start, end), and splits what only partly lies in it. */
static void cut(struct ranges *ranges, uint64_t start, uint64_t end)
{
    size_t first, last;

    split(ranges, start);
    split(ranges, end);
    first = find(ranges, start);
    last = first;
    while (last < ranges->count && ranges->at[last].vma.start < end)
        last++;
    if (first == last)
        return;
    memmove(ranges->at + first, ranges->at + last, (ranges->count - last) * sizeof *ranges->at);
    ranges->count -= last - first;
}

static void set_pages(struct process *p, uint64_t start, uint64_t end, int prot, int lazy)
{
    struct range run = {.vma = {.start = start, .end = end, .prot = prot}, .lazy = lazy};

    cut(p->pages, start, end);
    insert(p->pages, &run);
}

/* ---- The PAL: calls are listed, and counted as enclave_edmm.c would carry them out --------------- */

static void list(struct process *p, int name, uint64_t start, uint64_t end, int old, int new, int kinds,
                 int flags)
{
    struct vec_pal call = {name, (int)(p - processes), start, end, old, new, kinds, flags};
    struct vec_pal *last = calls_end > calls_begin ? &calls[calls_end - 1] : NULL;

    if (joins && last && name == VEC_PROTECT && last->name == name && last->end == start &&
        last->old_prot == old && last->new_prot == new && last->kinds == kinds) {
        last->end = end;
        return;
    }
    if (calls_end == calls_room)
        calls = grown(calls, &calls_room, sizeof *calls);
    calls[calls_end++] = call;
}

static long pages_of(uint64_t start, uint64_t end)
{
    return (long)((end - start) / PAGE);
}

/* The next run of committed pages at or above *run_start, below `end`; its pages may have several
 * permissions. */
static int next_run(struct process *p, uint64_t *run_start, uint64_t end, uint64_t *run_end)
{
    size_t at = find(p->pages, *run_start);

    while (at < p->pages->count && p->pages->at[at].lazy)
        at++;
    if (*run_start >= end || at == p->pages->count || p->pages->at[at].vma.start >= end)
        return 0;
    if (p->pages->at[at].vma.start > *run_start)
        *run_start = p->pages->at[at].vma.start;
    *run_end = *run_start;
    while (at < p->pages->count && !p->pages->at[at].lazy && p->pages->at[at].vma.start <= *run_end)
        *run_end = p->pages->at[at++].vma.end;
    if (*run_end > end)
        *run_end = end;
    return 1;
}

/* The permissions of the committed pages, NONE if there are none or several; *kinds is what a change
 * to `new` does. */
static int permissions(struct process *p, uint64_t start, uint64_t end, int new, int *kinds)
{
    int old = NONE, several = 0;

    *kinds = 0;
    for (size_t i = find(p->pages, start); i < p->pages->count; i++) {
        const struct range *run = &p->pages->at[i];

        if (run->vma.start >= end)
            break;
        if (run->lazy)
            continue;
        several |= old != NONE && old != run->vma.prot;
        old = run->vma.prot;
        *kinds |= new & ~old ? VEC_EXTEND : 0;
        *kinds |= old & ~new ? VEC_RESTRICT : 0;
    }
    return several ? NONE : old;
}

static int readable_if_writable(int prot)
{
    return prot & PROT_WRITE ? prot | PROT_READ : prot;
}

static void commit(struct process *p, uint64_t start, uint64_t end, int prot)
{
    prot = readable_if_writable(prot);
    if (prot & PROT_EXEC)
        counts[VEC_EMODPE] += pages_of(start, end);
    if ((prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE)) {
        counts[VEC_IOCTLS]++;
        counts[VEC_EMODPR] += pages_of(start, end);
    }
    set_pages(p, start, end, prot, 0);
}

static void pal_alloc(struct process *p, uint64_t start, uint64_t end, int prot, int lazy)
{
    list(p, VEC_ALLOC, start, end, NONE, prot, VEC_MAP, lazy ? VEC_LAZY : 0);
    if (lazy)
        set_pages(p, start, end, 0, 1);
    else
        commit(p, start, end, prot);
}

static void pal_free(struct process *p, uint64_t start, uint64_t end)
{
    uint64_t run_start = start, run_end;
    int kinds;

    list(p, VEC_FREE, start, end, permissions(p, start, end, 0, &kinds), NONE, VEC_UNMAP, 0);
    for (; next_run(p, &run_start, end, &run_end); run_start = run_end) {
        counts[VEC_IOCTLS] += 2;
        counts[VEC_EMODT] += pages_of(run_start, run_end);
        counts[VEC_EREMOVE] += pages_of(run_start, run_end);
    }
    cut(p->pages, start, end);
}

static void pal_protect(struct process *p, uint64_t start, uint64_t end, int prot)
{
    uint64_t run_start = start, run_end;
    int kinds, old = permissions(p, start, end, readable_if_writable(prot), &kinds);

    list(p, VEC_PROTECT, start, end, old, prot, kinds, 0);
    for (; next_run(p, &run_start, end, &run_end); run_start = run_end) {
        counts[VEC_EMODPE] += pages_of(run_start, run_end);
        counts[VEC_IOCTLS]++;
        counts[VEC_EMODPR] += pages_of(run_start, run_end);
        set_pages(p, run_start, run_end, readable_if_writable(prot), 0);
    }
}

/* ---- The calls ----------------------------------------------------------------------------------- */

static uint64_t round_up(uint64_t length)
{
    return (length + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

/* Whether [start, end) contains a VMA of a file, or of a shared one. */
static int maps_file(struct process *p, uint64_t start, uint64_t end, int shared)
{
    for (size_t i = find(p->vmas, start); i < p->vmas->count && p->vmas->at[i].vma.start < end; i++)
        if (p->vmas->at[i].vma.file && (!shared || p->vmas->at[i].vma.shared))
            return 1;
    return 0;
}

/* One Free for each VMA. */
static void unmap(struct process *p, uint64_t start, uint64_t end)
{
    uint64_t last = end;

    for (size_t i = find(p->vmas, start); i < p->vmas->count && p->vmas->at[i].vma.start < end; i++) {
        const struct vec_vma *vma = &p->vmas->at[i].vma;
        uint64_t low = vma->start > start ? vma->start : start;

        if (BUG == FREES_HOLES) {
            pal_free(p, start, end);
            break;
        }
        pal_free(p, low, vma->end < end ? vma->end : end);
        last = vma->end;
    }
    cut(p->vmas, start, BUG == LOSES_RIGHT_PART && last > end ? last : end);
}

static void map(struct process *p, const struct vec_event *call)
{
    uint64_t start = (uint64_t)call->result, end = start + round_up(call->args[1]);
    int prot = (int)call->args[2] & (PROT_READ | PROT_WRITE | PROT_EXEC), flags = (int)call->args[3];
    int lazy = flags & MAP_NORESERVE && flags & MAP_ANONYMOUS && BUG != EAGER_NORESERVE;
    struct range new = {.vma = {start, end, prot, (flags & MAP_TYPE) != MAP_PRIVATE, 0, 0}};

    if (BUG == FIXED_WITHOUT_FREE)
        cut(p->vmas, start, end);
    else
        unmap(p, start, end);
    new.valid_end = end;
    if (flags & MAP_ANONYMOUS) {
        pal_alloc(p, start, end, prot, lazy);
        insert(p->vmas, &new);
        return;
    }
    new.vma.file = call->file;
    new.vma.offset = call->args[5];
    new.tainted = prot & PROT_WRITE;
    if (call->size) {
        uint64_t size = round_up(call->size);

        new.valid_end = start + (size > call->args[5] ? size - call->args[5] : 0);
    }
    pal_alloc(p, start, end, prot | PROT_WRITE, 0);
    if (!(prot & PROT_WRITE))
        pal_protect(p, start, end, prot);
    if (new.valid_end < end && BUG != OPEN_TAIL)
        pal_protect(p, new.valid_end, end, 0);
    insert(p->vmas, &new);
}

/* One Protect of the whole range, or with skip_equal one for each VMA that changes, up to the end of
 * its file. Equal VMAs are then not split. */
static void protect(struct process *p, uint64_t start, uint64_t end, int prot)
{
    if (!skip_equal)
        pal_protect(p, start, end, prot);
    for (size_t i = find(p->vmas, start); i < p->vmas->count && p->vmas->at[i].vma.start < end; i++) {
        const struct vec_vma *vma = &p->vmas->at[i].vma;
        uint64_t low = vma->start > start ? vma->start : start, high = vma->end < end ? vma->end : end;
        struct range *range;

        if (skip_equal && vma->prot == prot)
            continue;
        split(p->vmas, low);
        if (BUG != NO_SPLIT_AT_END)
            split(p->vmas, high);
        i = find(p->vmas, low);
        range = &p->vmas->at[i];
        if (skip_equal && low < range->valid_end)
            pal_protect(p, low, high < range->valid_end ? high : range->valid_end, prot);
        range->vma.prot = prot;
        range->tainted |= range->vma.file && prot & PROT_WRITE;
    }
}

/* Where the VMA that contains `address` begins. */
static uint64_t vma_start(const struct process *p, uint64_t address)
{
    size_t at = find(p->vmas, address);

    if (at < p->vmas->count && p->vmas->at[at].vma.start < address)
        return p->vmas->at[at].vma.start;
    return address;
}

/* memset to zero, with two Protects around it if the VMA is not writable. */
static void discard(struct process *p, uint64_t start, uint64_t end)
{
    for (size_t i = find(p->vmas, start); i < p->vmas->count && p->vmas->at[i].vma.start < end; i++) {
        const struct vec_vma *vma = &p->vmas->at[i].vma;
        uint64_t low = vma->start > start ? vma->start : start, high = vma->end < end ? vma->end : end;

        if (vma->file || vma->prot & PROT_WRITE)
            continue;
        pal_protect(p, low, high, vma->prot | PROT_WRITE);
        pal_protect(p, low, high, vma->prot);
    }
}

static void set_break(struct process *p, uint64_t address)
{
    uint64_t old = round_up(p->brk), new = round_up(address);

    if (new > old) {
        struct range heap = {.vma = {old, new, PROT_READ | PROT_WRITE, 0, 0, 0}, .valid_end = new};

        unmap(p, old, new);
        pal_alloc(p, old, new, PROT_READ | PROT_WRITE, 0);
        insert(p->vmas, &heap);
    } else if (new < old) {
        pal_free(p, new, old);
        cut(p->vmas, new, old);
    }
    p->brk = address;
}

/* ---- The six functions ----------------------------------------------------------------------------- */

static struct process *process(int number)
{
    struct process *p = &processes[number];

    if (!p->vmas) {
        p->vmas = calloc(1, sizeof *p->vmas);
        p->pages = calloc(1, sizeof *p->pages);
        if (!p->vmas || !p->pages)
            abort();
    }
    return p;
}

void vec_load(int number, const struct vec_vma *vma, int kind)
{
    struct process *p = process(number);
    struct range range = {.vma = *vma, .valid_end = vma->end};

    range.tainted = kind == VEC_FILE && vma->prot & PROT_WRITE;
    insert(p->vmas, &range);
    set_pages(p, vma->start, vma->end, readable_if_writable(vma->prot), 0);
}

static int carry_out(const struct vec_event *call)
{
    struct process *p = process(call->process);
    uint64_t start = call->args[0], end = start + round_up(call->args[1]);
    int prot = (int)call->args[2];

    /* Gramine discards what is mapped on both sides of a hole, and fails then: not modeled. */
    if (call->result < 0 && BUG != APPLIES_FAILURES)
        return strcmp(call->name, "madvise") ? 0 : VEC_NO_PAL | VEC_NO_COUNTS;
    if (!strcmp(call->name, "mmap")) {
        uint64_t at = (uint64_t)call->result;
        /* Gramine writes shared files back before it unmaps them: not modeled. */
        int flushes = call->result >= 0 && maps_file(p, at, at + round_up(call->args[1]), 1);

        if (call->result >= 0)
            map(p, call);
        return flushes ? VEC_NO_PAL | VEC_NO_COUNTS : 0;
    }
    if (!strcmp(call->name, "munmap")) {
        int flushes = maps_file(p, start, end, 1);

        unmap(p, start, end);
        return flushes ? VEC_NO_PAL | VEC_NO_COUNTS : 0;
    }
    if (!strcmp(call->name, "mprotect")) {
        if (prot & GROWSDOWN)
            start = vma_start(p, start);
        if (start < end)
            protect(p, start, end, prot & (PROT_READ | PROT_WRITE | PROT_EXEC));
        return 0;
    }
    if (!strcmp(call->name, "madvise")) {
        if (prot != MADV_DONTNEED)
            return 0;
        discard(p, start, end);
        /* Gramine stops at a file that was written: not modeled. */
        return maps_file(p, start, end, 0) ? VEC_NO_PAL | VEC_NO_COUNTS : 0;
    }
    if (!strcmp(call->name, "brk")) {
        set_break(p, (uint64_t)call->result);
        return 0;
    }
    if (!strcmp(call->name, "mremap"))
        return VEC_UNSUPPORTED; /* Gramine has no mremap: what the C library then does is not modeled */
    return VEC_NO_PAL | VEC_NO_COUNTS;
}

int vec_call(const struct vec_event *call)
{
    return carry_out(call) | VEC_NO_INTERNAL;
}

/* The pages that a child receives: all but those of a written private file past its end. */
static void copy(struct process *child, const struct process *parent)
{
    *child = *process((int)(child - processes));
    child->brk = parent->brk;
    if (BUG == SHARED_WITH_CHILD) {
        child->vmas = parent->vmas;
        child->pages = parent->pages;
        return;
    }
    for (size_t i = 0; i < parent->vmas->count; i++)
        insert(child->vmas, &parent->vmas->at[i]);
    for (size_t i = 0; i < parent->pages->count; i++)
        insert(child->pages, &parent->pages->at[i]);
    for (size_t i = 0; i < parent->vmas->count; i++) {
        const struct range *range = &parent->vmas->at[i];
        uint64_t from = range->valid_end > range->vma.start ? range->valid_end : range->vma.start;

        if (range->tainted && !range->vma.shared && from < range->vma.end)
            cut(child->pages, from, range->vma.end);
    }
}

/* A stack grows: its VMA, or, if there is a guard page below it, the guard page moves. */
static void grow(struct process *p, uint64_t start, uint64_t end)
{
    size_t at = find(p->vmas, end), below;
    struct range guard;

    /* What is the stack's already, because it has its full size from the beginning. */
    while (at < p->vmas->count && p->vmas->at[at].vma.prot && p->vmas->at[at].vma.start < end)
        end = p->vmas->at[at].vma.start;
    if (at == p->vmas->count || end <= start)
        return;
    below = find(p->vmas, end - PAGE);
    guard = p->vmas->at[below];
    cut(p->vmas, start, end);
    if (below < at && !guard.vma.prot && guard.vma.end == end && guard.vma.start == end - PAGE) {
        guard.vma.start = start - PAGE;
        guard.vma.end = guard.valid_end = start;
        insert(p->vmas, &guard);
        set_pages(p, start - PAGE, start, 0, 0);
    }
    at = find(p->vmas, end);
    p->vmas->at[at].vma.start = start;
    set_pages(p, start, end, readable_if_writable(p->vmas->at[at].vma.prot), 0);
}

static void touch(struct process *p, uint64_t start, uint64_t end)
{
    for (uint64_t address = start; address < end; address += PAGE) {
        size_t at = find(p->pages, address), vma = find(p->vmas, address);

        if (at < p->pages->count && p->pages->at[at].vma.start <= address && p->pages->at[at].lazy &&
            vma < p->vmas->count)
            commit(p, address, address + PAGE, p->vmas->at[vma].vma.prot);
    }
}

int vec_other(const struct vec_event *event)
{
    struct process *p = process(event->process);

    if (!strcmp(event->name, "touch")) {
        touch(p, event->args[0], event->args[1]);
        return VEC_NO_COUNTS; /* lazy pages are counted one by one here, by runs in the vectors */
    }
    if (!strcmp(event->name, "load"))
        p->brk = event->args[1];
    else if (!strcmp(event->name, "fork"))
        copy(&processes[event->args[0]], p);
    else if (!strcmp(event->name, "grow"))
        grow(p, event->args[0], event->args[1]);
    else if (!strcmp(event->name, "end"))
        p->vmas->count = p->pages->count = 0;
    return VEC_NO_PAL | VEC_NO_COUNTS;
}

int vec_next_vma(int number, uint64_t address, struct vec_vma *vma)
{
    const struct ranges *vmas = process(number)->vmas;
    size_t at = find(vmas, address);

    if (at == vmas->count)
        return 0;
    *vma = vmas->at[at].vma;
    return 1;
}

int vec_next_pal(struct vec_pal *call)
{
    if (calls_begin == calls_end) {
        calls_begin = calls_end = 0;
        return 0;
    }
    *call = calls[calls_begin++];
    return 1;
}

long vec_counts(long result[VEC_COUNTS])
{
    static const int counted[] = {VEC_IOCTLS, VEC_EMODPE, VEC_EMODPR, VEC_EMODT, VEC_EREMOVE};

    for (int i = 0; i < VEC_COUNTS; i++)
        result[i] = VEC_UNKNOWN;
    for (size_t i = 0; i < sizeof counted / sizeof *counted; i++)
        result[counted[i]] = counts[counted[i]];
    memset(counts, 0, sizeof counts);
    return VEC_UNKNOWN;
}
