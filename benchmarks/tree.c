/* How long memory calls take: the kernel's system calls, or an AVL tree of VMAs as library OSes keep
   it, with splits and without merges. Arguments: "kernel" or "tree", the number of VMAs, rounds.
   Prints the median ns of processor time per call of: equal mprotect, changing mprotect, munmap, mmap fixed. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096L
#define SLOT (4 * PAGE) /* three pages, and a hole of one */
#define CALLS 1000
#define RW (PROT_READ | PROT_WRITE)

struct vma {
    unsigned long start, end, offset;
    int prot, flags;
    void *file;
    struct vma *left, *right;
    int height;
};

static struct vma *root;

static int height(struct vma *node) { return node ? node->height : 0; }

static struct vma *lifted(struct vma *node)
{
    int left = height(node->left), right = height(node->right);
    node->height = 1 + (left > right ? left : right);
    return node;
}

static struct vma *turn_right(struct vma *node)
{
    struct vma *top = node->left;
    node->left = top->right;
    top->right = lifted(node);
    return lifted(top);
}

static struct vma *turn_left(struct vma *node)
{
    struct vma *top = node->right;
    node->right = top->left;
    top->left = lifted(node);
    return lifted(top);
}

static struct vma *balanced(struct vma *node)
{
    int lean = height(node->left) - height(node->right);
    if (lean > 1) {
        if (height(node->left->left) < height(node->left->right))
            node->left = turn_left(node->left);
        return turn_right(node);
    }
    if (lean < -1) {
        if (height(node->right->right) < height(node->right->left))
            node->right = turn_right(node->right);
        return turn_left(node);
    }
    return lifted(node);
}

static struct vma *inserted(struct vma *node, struct vma *vma)
{
    if (!node)
        return vma;
    if (vma->start < node->start)
        node->left = inserted(node->left, vma);
    else
        node->right = inserted(node->right, vma);
    return balanced(node);
}

static struct vma *without_first(struct vma *node, struct vma **first)
{
    if (!node->left) {
        *first = node;
        return node->right;
    }
    node->left = without_first(node->left, first);
    return balanced(node);
}

static struct vma *removed(struct vma *node, unsigned long start)
{
    if (start < node->start) {
        node->left = removed(node->left, start);
    } else if (start > node->start) {
        node->right = removed(node->right, start);
    } else {
        struct vma *left = node->left, *right = node->right, *next;
        free(node);
        if (!right)
            return left;
        right = without_first(right, &next);
        next->left = left;
        next->right = right;
        return balanced(next);
    }
    return balanced(node);
}

/* The first VMA that ends above an address. */
static struct vma *above(unsigned long address)
{
    struct vma *node = root, *best = NULL;
    while (node) {
        if (node->end > address) {
            best = node;
            node = node->left;
        } else {
            node = node->right;
        }
    }
    return best;
}

static void insert(unsigned long start, unsigned long end, struct vma like, int prot)
{
    struct vma *vma = malloc(sizeof *vma);
    *vma = like;
    vma->offset += start - like.start;
    vma->start = start;
    vma->end = end;
    vma->prot = prot;
    vma->left = vma->right = NULL;
    vma->height = 1;
    root = inserted(root, vma);
}

/* Splits the VMA around an address, so that a VMA begins there. */
static void split(unsigned long address)
{
    struct vma *vma = above(address);
    if (vma && vma->start < address) {
        struct vma like = *vma;
        vma->end = address;
        insert(address, like.end, like, like.prot);
    }
}

static void tree_munmap(unsigned long start, unsigned long end)
{
    struct vma *vma;
    split(start);
    split(end);
    while ((vma = above(start)) && vma->start < end)
        root = removed(root, vma->start);
}

static void tree_mmap(unsigned long start, unsigned long end, int prot)
{
    struct vma like = {.start = start, .flags = MAP_PRIVATE | MAP_ANONYMOUS};
    tree_munmap(start, end);
    insert(start, end, like, prot);
}

static void tree_mprotect(unsigned long start, unsigned long end, int prot)
{
    struct vma *vma;
    split(start);
    split(end);
    while (start < end && (vma = above(start)) && vma->start < end) {
        vma->prot = prot;
        start = vma->end;
    }
}

static int in_kernel;

static void call_mprotect(unsigned long start, long length, int prot)
{
    if (!in_kernel)
        tree_mprotect(start, start + length, prot);
    else if (mprotect((void *)start, length, prot))
        abort();
}

static void call_munmap(unsigned long start, long length)
{
    if (!in_kernel)
        tree_munmap(start, start + length);
    else if (munmap((void *)start, length))
        abort();
}

static void call_mmap(unsigned long start, long length)
{
    if (!in_kernel)
        tree_mmap(start, start + length, RW);
    else if (mmap((void *)start, length, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        abort();
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    long count = atol(argv[2]), rounds = atol(argv[3]);
    in_kernel = !strcmp(argv[1], "kernel");
    void *room = mmap(0, count * SLOT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return 1;
    unsigned long base = (unsigned long)room;
    if (in_kernel && munmap(room, count * SLOT))
        return 1;
    for (long i = 0; i < count; i++)
        call_mmap(base + i * SLOT, 3 * PAGE);
    double *times[4];
    for (int what = 0; what < 4; what++)
        times[what] = malloc(rounds * sizeof(double));
    unsigned long *slots = malloc(CALLS * sizeof *slots);
    for (long round = 0; round < rounds; round++) {
        for (int i = 0; i < CALLS; i++)
            slots[i] = base + random() % count * SLOT;
        double begin = now();
        for (int i = 0; i < CALLS; i++)
            call_mprotect(slots[i], 3 * PAGE, RW);
        times[0][round] = (now() - begin) / CALLS;
        begin = now();
        for (int i = 0; i < CALLS; i++)
            call_mprotect(slots[i] + PAGE, PAGE, i % 2 ? PROT_READ : RW);
        times[1][round] = (now() - begin) / CALLS;
        /* As before: whole VMAs, which the next two unmap and map. */
        begin = now();
        for (int i = 0; i < CALLS; i++)
            call_munmap(slots[i], 3 * PAGE);
        times[2][round] = (now() - begin) / CALLS;
        begin = now();
        for (int i = 0; i < CALLS; i++)
            call_mmap(slots[i], 3 * PAGE);
        times[3][round] = (now() - begin) / CALLS;
    }
    for (int what = 0; what < 4; what++) {
        qsort(times[what], rounds, sizeof(double), ascending);
        printf("%.1f\n", times[what][rounds / 2]);
    }
    return 0;
}
