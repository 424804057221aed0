/* Threads that allocate, grow, shrink and free blocks of all sizes and check what is in them.
   usage: churn [THREADS [STEPS]] */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 96 };

static long steps = 6000;

struct block {
    unsigned char *data;
    size_t size;
    unsigned char mark;
};

static void check(const struct block *block)
{
    for (size_t at = 0; at < block->size; at += 509)
        if (block->data[at] != block->mark) {
            fprintf(stderr, "churn: a block lost its contents\n");
            abort();
        }
}

static size_t pick(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    uint32_t bits = *state >> 8;
    if (bits % 64 == 0)
        return 130000 + bits % 700000;
    return 16 + bits % (bits % 8 ? 600 : 20000);
}

static void *work(void *argument)
{
    uint32_t state = (uint32_t)(uintptr_t)argument;
    struct block blocks[SLOTS] = {0};
    uint64_t total = 0;
    for (long step = 0; step < steps; step++) {
        struct block *block = &blocks[pick(&state) % SLOTS];
        size_t size = pick(&state);
        check(block);
        if (block->data == NULL || step % 3 == 0) {
            free(block->data);
            block->data = step % 5 ? malloc(size) : aligned_alloc(4096, (size + 4095) / 4096 * 4096);
            block->mark = 0;
            block->size = 0;
        } else {
            block->data = realloc(block->data, size);
            if (size < block->size)
                block->size = size;
            check(block);
        }
        if (block->data == NULL)
            abort();
        block->mark = (unsigned char)(step + 1);
        block->size = size;
        memset(block->data, block->mark, size);
        total += size;
    }
    for (int slot = 0; slot < SLOTS; slot++) {
        check(&blocks[slot]);
        free(blocks[slot].data);
    }
    return (void *)(uintptr_t)total;
}

int main(int count, char **arguments)
{
    long threads = count > 1 ? atol(arguments[1]) : 4;
    if (count > 2)
        steps = atol(arguments[2]);
    for (int round = 0; round < 3; round++) {
        pthread_t running[64];
        uint64_t total = 0;
        for (long n = 0; n < threads; n++)
            if (pthread_create(&running[n], NULL, work, (void *)(uintptr_t)(n + 1 + round)))
                abort();
        for (long n = 0; n < threads; n++) {
            void *result;
            pthread_join(running[n], &result);
            total += (uintptr_t)result;
        }
        printf("round %d %llu\n", round, (unsigned long long)total);
    }
    return 13;
}
