/* SPDX-License-Identifier: Apache-2.0 */
/* Laconic's vectors, for an implementation in C. docs/appendix/vector-file.md describes the file and its units.
 *
 * Implement the six functions in the second half of this file, link them with reader.c and runner.c,
 * and run the program on files of vectors/. It reports the first vector that differs. */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <stdio.h>

enum { VEC_UNKNOWN = -1 };

/* One VMA. start, end and offset are in bytes; file is the number of a file, 0 for anonymous memory. */
struct vec_vma {
    uint64_t start, end;
    int prot, shared, file;
    uint64_t offset;
};

/* What an initial VMA is. */
enum { VEC_ANONYMOUS, VEC_FILE, VEC_STACK, VEC_VDSO };

/* A memory call, or another event. size is that of the file, in bytes. */
struct vec_event {
    unsigned long number;
    char name[32];
    int process;
    uint64_t args[6];
    int64_t result;
    int file;
    uint64_t size;
    int writable;
};

/* A PAL call for [start, end). VEC_UNKNOWN in old, new and kinds is not compared. */
enum { VEC_ALLOC, VEC_FREE, VEC_PROTECT };
enum { VEC_LAZY = 1, VEC_SINGLE = 2, VEC_INTERNAL = 4 };
enum { VEC_MAP = 1, VEC_UNMAP = 2, VEC_EXTEND = 16, VEC_RESTRICT = 32 };
struct vec_pal {
    int name, process;
    uint64_t start, end;
    int old_prot, new_prot, kinds, flags;
};

enum {
    VEC_HOST_CALLS, VEC_IOCTLS, VEC_EAUG_FAULTS, VEC_EXCEPTIONS, VEC_ETRACK_IPIS, VEC_EAUG,
    VEC_EACCEPT, VEC_EACCEPTCOPY, VEC_EMODPE, VEC_EMODPR, VEC_EMODT, VEC_EREMOVE, VEC_ZEROED,
    VEC_COPIED, VEC_COUNTS
};

/* ---- The six functions that an implementation defines ---------------------------------------- */

/* What vec_call and vec_other return: 0, or what must not be compared after this event, added.
 * VEC_NO_INTERNAL: PAL calls for the library OS's own memory, and the counts if there are such calls.
 * VEC_UNSUPPORTED: the process is not compared any more. */
enum { VEC_NO_PAL = 1, VEC_NO_COUNTS = 2, VEC_UNSUPPORTED = 4, VEC_NO_INTERNAL = 8 };

/* A VMA of a program that has been loaded, after the event `load`; `kind` is VEC_ANONYMOUS for what
 * only the library OS adds. */
void vec_load(int process, const struct vec_vma *vma, int kind);
/* A memory call. Its result is given, so that an implementation need not choose addresses. */
int vec_call(const struct vec_event *call);
/* load, touch, fork, thread, thread-end, grow or end. */
int vec_other(const struct vec_event *event);
/* Stores the first VMA of `process` that ends above `address`, and returns 1; 0 if there is none. */
int vec_next_vma(int process, uint64_t address, struct vec_vma *vma);
/* Stores the oldest PAL call that was not taken yet, and returns 1; 0 if there is none. */
int vec_next_pal(struct vec_pal *call);
/* Stores what was counted since the last time, VEC_UNKNOWN for what is not counted. Returns the
 * number of committed pages of all processes, or VEC_UNKNOWN. */
long vec_counts(long counts[VEC_COUNTS]);

/* ---- The reader ------------------------------------------------------------------------------- */

enum {
    VEC_END, VEC_COMMENT, VEC_STRATEGY, VEC_INIT, VEC_EVENT, VEC_STATE, VEC_COUNTED, VEC_PAL,
    VEC_DROP, VEC_VMA, VEC_HEADER, VEC_ERROR
};

/* One line of a file; the fields of its item are set. */
struct vec_item {
    unsigned long line;
    int item;
    int strategy;                       /* STRATEGY, STATE */
    char name[32];                      /* STRATEGY */
    int merged, has_pal;                /* STRATEGY */
    int process;                        /* INIT, STATE */
    struct vec_vma vma;                 /* INIT, VMA; DROP: start */
    int kind;                           /* INIT */
    struct vec_event event;             /* EVENT */
    unsigned long number;               /* STATE: of its event */
    uint32_t crc;                       /* STATE */
    unsigned long vmas;                 /* STATE */
    long epc;                           /* STATE */
    long counts[VEC_COUNTS];            /* COUNTED */
    struct vec_pal pal;                 /* PAL */
};

/* Reads the first line; returns 0 if it is that of a vector file of this version. */
int vec_open(FILE *file, struct vec_item *item);
/* Reads the next line; returns its item, VEC_END at the end, VEC_HEADER where another file begins,
 * VEC_ERROR for a malformed line. */
int vec_read(FILE *file, struct vec_item *item);
/* The CRC-32 of `length` bytes, continued from `crc` (0 at first): zlib's. */
uint32_t vec_crc(uint32_t crc, const void *data, size_t length);
/* Formats a VMA as the line that the CRC-32 covers; returns its length. */
int vec_format(char *text, size_t size, const struct vec_vma *vma);
/* "alloc", "free" or "protect". */
const char *vec_pal_name(int name);

#endif
