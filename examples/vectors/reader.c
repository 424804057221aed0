/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a vector file, line by line. */
#include "vectors.h"

#include <inttypes.h>
#include <string.h>

static const char *const pal_names[] = {"alloc", "free", "protect"};

const char *vec_pal_name(int name)
{
    return pal_names[name];
}

uint32_t vec_crc(uint32_t crc, const void *data, size_t length)
{
    const unsigned char *byte = data;

    crc = ~crc;
    while (length--) {
        crc ^= *byte++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

int vec_format(char *text, size_t size, const struct vec_vma *vma)
{
    return snprintf(text, size, "%" PRIx64 " %" PRIx64 " %d %d %d %" PRIx64 "\n", vma->start,
                    vma->end, vma->prot, vma->shared, vma->file, vma->offset);
}

static int parse_vma(const char *text, struct vec_vma *vma, int *after)
{
    return sscanf(text, "%" SCNx64 " %" SCNx64 " %d %d %d %" SCNx64 "%n", &vma->start, &vma->end,
                  &vma->prot, &vma->shared, &vma->file, &vma->offset, after) == 6;
}

static int parse_event(const char *text, struct vec_event *event)
{
    uint64_t result;

    if (sscanf(text,
               "%lu %31s %d %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64
               " %" SCNx64 " %d %" SCNu64 " %d",
               &event->number, event->name, &event->process, &event->args[0], &event->args[1],
               &event->args[2], &event->args[3], &event->args[4], &event->args[5], &result,
               &event->file, &event->size, &event->writable) != 13)
        return 0;
    event->result = (int64_t)result;
    return 1;
}

static int parse_counts(const char *text, long *counts)
{
    for (int i = 0; i < VEC_COUNTS; i++) {
        int length;

        if (sscanf(text, "%ld%n", &counts[i], &length) != 1)
            return 0;
        text += length;
    }
    return 1;
}

static int parse_pal(const char *text, struct vec_pal *pal)
{
    char name[16];

    if (sscanf(text, "%15s %d %" SCNx64 " %" SCNx64 " %d %d %d %d", name, &pal->process, &pal->start,
               &pal->end, &pal->old_prot, &pal->new_prot, &pal->kinds, &pal->flags) != 8)
        return 0;
    for (pal->name = VEC_ALLOC; pal->name <= VEC_PROTECT; pal->name++)
        if (!strcmp(name, pal_names[pal->name]))
            return 1;
    return 0;
}

static int parse(const char *word, const char *text, struct vec_item *item)
{
    char table[16];
    int after;

    if (!strcmp(word, "strategy")) {
        if (sscanf(text, "%d %31s %15s %d", &item->strategy, item->name, table, &item->has_pal) != 4)
            return VEC_ERROR;
        item->merged = !strcmp(table, "merged");
        return VEC_STRATEGY;
    }
    if (!strcmp(word, "init")) {
        if (sscanf(text, "%d%n", &item->process, &after) != 1)
            return VEC_ERROR;
        text += after;
        if (!parse_vma(text, &item->vma, &after) || sscanf(text + after, "%d", &item->kind) != 1)
            return VEC_ERROR;
        return VEC_INIT;
    }
    if (!strcmp(word, "event"))
        return parse_event(text, &item->event) ? VEC_EVENT : VEC_ERROR;
    if (!strcmp(word, "state"))
        return sscanf(text, "%lu %d %d %" SCNx32 " %lu %ld", &item->number, &item->strategy,
                      &item->process, &item->crc, &item->vmas, &item->epc) == 6
                   ? VEC_STATE
                   : VEC_ERROR;
    if (!strcmp(word, "counts"))
        return parse_counts(text, item->counts) ? VEC_COUNTED : VEC_ERROR;
    if (!strcmp(word, "pal"))
        return parse_pal(text, &item->pal) ? VEC_PAL : VEC_ERROR;
    if (!strcmp(word, "drop"))
        return sscanf(text, "%" SCNx64, &item->vma.start) == 1 ? VEC_DROP : VEC_ERROR;
    if (!strcmp(word, "vma"))
        return parse_vma(text, &item->vma, &after) ? VEC_VMA : VEC_ERROR;
    if (!strcmp(word, "laconic-vectors"))
        return VEC_HEADER;
    return VEC_ERROR;
}

int vec_open(FILE *file, struct vec_item *item)
{
    int version;
    char line[64];

    item->line = 1;
    if (!fgets(line, sizeof line, file) || sscanf(line, "laconic-vectors %d", &version) != 1)
        return -1;
    return version == 1 ? 0 : -1;
}

int vec_read(FILE *file, struct vec_item *item)
{
    char line[512], word[16];
    int after;

    if (!fgets(line, sizeof line, file))
        return item->item = ferror(file) ? VEC_ERROR : VEC_END;
    item->line++;
    if (line[0] == '#') {
        while (!strchr(line, '\n') && fgets(line, sizeof line, file))
            ;
        return item->item = VEC_COMMENT;
    }
    if (sscanf(line, "%15s%n", word, &after) != 1)
        return item->item = VEC_COMMENT;
    return item->item = parse(word, line + after, item);
}
