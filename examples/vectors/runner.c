/* SPDX-License-Identifier: Apache-2.0 */
/* Runs an implementation on a vector file, and reports the first vector that differs.
 *
 *     zcat vectors/brk.vectors.gz | ./runner -s every-call [-j] [-w OUT]
 *
 * -s names the strategy that the implementation follows. -j joins neighboring `protect` calls that
 * change alike, in the vectors and in what the implementation does, before they are compared; where
 * that joins anything, host calls and ioctls are not compared. -w writes what the implementation did,
 * in the form of a vector file, for `laconic vectors check OUT --against VECTORS`.
 *
 * Exit status: 0 no difference, 1 a difference, 2 a wrong option or file. */
#include "vectors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PROCESSES = 1024, LINE = 128 };

/* A growing array of VMAs or of PAL calls. */
struct table {
    struct vec_vma *vmas;
    size_t count, room;
};
struct calls {
    struct vec_pal *calls;
    size_t count, room;
};

/* What the file expects after an event, for the strategy that is compared. */
struct state {
    int pending, first;
    unsigned long number;
    int process;
    uint32_t crc;
    long counts[VEC_COUNTS], epc;
    struct calls pal;
};

static const char *strategy = "every-call";
static int strategy_number = -1, merged, has_pal, join;
/* The strategies that the file has, separated by commas. */
static char known_strategies[256];
static FILE *out;
static struct table expected[PROCESSES];
static int unsupported[PROCESSES];
static struct vec_event event;
static int have_event, leave_out;
static struct calls actual_pal;
static long actual_counts[VEC_COUNTS], actual_epc;
static struct state state;
static unsigned long compared, states;
/* The initial VMAs of the process whose `load` follows. */
static struct vec_item *inits;
static size_t init_count, init_room;

static void die(const char *why, unsigned long line)
{
    fprintf(stderr, "runner: line %lu: %s\n", line, why);
    exit(2);
}

static void *grown(void *array, size_t *room, size_t size)
{
    *room = *room ? *room * 2 : 64;
    array = realloc(array, *room * size);
    if (!array)
        die("out of memory", 0);
    return array;
}

static size_t place(const struct table *table, uint64_t start)
{
    size_t at = 0;

    while (at < table->count && table->vmas[at].start < start)
        at++;
    return at;
}

static void drop(struct table *table, uint64_t start)
{
    size_t at = place(table, start);

    if (at == table->count || table->vmas[at].start != start)
        return;
    table->count--;
    memmove(table->vmas + at, table->vmas + at + 1, (table->count - at) * sizeof *table->vmas);
}

static void add(struct table *table, const struct vec_vma *vma)
{
    size_t at;

    drop(table, vma->start);
    at = place(table, vma->start);
    if (table->count == table->room)
        table->vmas = grown(table->vmas, &table->room, sizeof *table->vmas);
    memmove(table->vmas + at + 1, table->vmas + at, (table->count - at) * sizeof *table->vmas);
    table->vmas[at] = *vma;
    table->count++;
}

static void append(struct calls *calls, const struct vec_pal *call)
{
    if (calls->count == calls->room)
        calls->calls = grown(calls->calls, &calls->room, sizeof *calls->calls);
    calls->calls[calls->count++] = *call;
}

/* Neighbors that differ only in their place are one line of a merged table. */
static int alike(const struct vec_vma *a, const struct vec_vma *b)
{
    return a->end == b->start && a->prot == b->prot && a->shared == b->shared && a->file == b->file &&
           (!a->file || a->offset + (b->start - a->start) == b->offset);
}

static struct table actual_table(int process)
{
    static struct table table;
    struct vec_vma vma;
    uint64_t address = 0;

    table.count = 0;
    while (vec_next_vma(process, address, &vma)) {
        if (vma.end <= address || vma.end <= vma.start) {
            fprintf(stderr, "runner: vec_next_vma does not ascend\n");
            exit(1);
        }
        address = vma.end;
        if (merged && table.count && alike(&table.vmas[table.count - 1], &vma))
            table.vmas[table.count - 1].end = vma.end;
        else
            add(&table, &vma);
    }
    return table;
}

static uint32_t table_crc(const struct table *table)
{
    char line[LINE];
    uint32_t crc = 0;

    for (size_t i = 0; i < table->count; i++)
        crc = vec_crc(crc, line, (size_t)vec_format(line, sizeof line, &table->vmas[i]));
    return crc;
}

static int same_call(const struct vec_pal *a, const struct vec_pal *b)
{
    if (a->name != b->name || a->process != b->process || a->flags != b->flags)
        return 0;
    if (a->flags & VEC_INTERNAL ? a->end - a->start != b->end - b->start
                                : a->start != b->start || a->end != b->end)
        return 0;
    return (b->old_prot == VEC_UNKNOWN || a->old_prot == b->old_prot) &&
           (b->new_prot == VEC_UNKNOWN || a->new_prot == b->new_prot) &&
           (b->kinds == VEC_UNKNOWN || a->kinds == b->kinds);
}

/* Removes the calls for the library OS's own memory; returns how many there were. */
static size_t drop_internal(struct calls *calls)
{
    size_t kept = 0, count = calls->count;

    for (size_t i = 0; i < count; i++)
        if (!(calls->calls[i].flags & VEC_INTERNAL))
            calls->calls[kept++] = calls->calls[i];
    calls->count = kept;
    return count - kept;
}

/* Whether `second` continues `first`: a design may protect both ranges in one call. */
static int continues(const struct vec_pal *first, const struct vec_pal *second)
{
    return first->name == VEC_PROTECT && second->name == VEC_PROTECT && first->end == second->start &&
           first->process == second->process && first->flags == second->flags &&
           first->old_prot == second->old_prot && first->new_prot == second->new_prot &&
           first->kinds == second->kinds;
}

/* Joins neighboring calls that change alike; returns whether there were any. */
static int join_calls(struct calls *calls)
{
    size_t kept = 0, count = calls->count;

    for (size_t i = 0; i < count; i++) {
        if (kept && continues(&calls->calls[kept - 1], &calls->calls[i]))
            calls->calls[kept - 1].end = calls->calls[i].end;
        else
            calls->calls[kept++] = calls->calls[i];
    }
    calls->count = kept;
    return kept != count;
}

static int same_calls(void)
{
    if (state.pal.count != actual_pal.count)
        return 0;
    for (size_t i = 0; i < state.pal.count; i++)
        if (!same_call(&state.pal.calls[i], &actual_pal.calls[i]))
            return 0;
    return 1;
}

static int same_count(long expected_count, long actual_count)
{
    return actual_count == VEC_UNKNOWN || actual_count == expected_count;
}

static int same_counts(void)
{
    for (int i = 0; i < VEC_COUNTS; i++)
        if (!same_count(state.counts[i], actual_counts[i]))
            return 0;
    return same_count(state.epc, actual_epc);
}

static void print_table(const char *title, const struct table *table, const struct table *other)
{
    char line[LINE], twin[LINE];

    printf("%s, %zu VMAs (start end prot shared file offset):\n", title, table->count);
    for (size_t i = 0; i < table->count; i++) {
        size_t at = place(other, table->vmas[i].start);

        vec_format(line, sizeof line, &table->vmas[i]);
        twin[0] = 0;
        if (at < other->count)
            vec_format(twin, sizeof twin, &other->vmas[at]);
        printf("  %c %s", strcmp(line, twin) ? '>' : ' ', line);
    }
}

static void write_call(FILE *to, const struct vec_pal *call)
{
    fprintf(to, "%s %d %" PRIx64 " %" PRIx64 " %d %d %d %d\n", vec_pal_name(call->name), call->process,
            call->start, call->end, call->old_prot, call->new_prot, call->kinds, call->flags);
}

/* With a mark at each call that differs from the other list's call in the same place. */
static void print_calls(const char *title, const struct calls *calls)
{
    printf("%s, %zu PAL calls (name process start end old new kinds flags):\n", title, calls->count);
    for (size_t i = 0; i < calls->count; i++) {
        int differs = i >= state.pal.count || i >= actual_pal.count ||
                      !same_call(&state.pal.calls[i], &actual_pal.calls[i]);

        printf("  %c ", differs && !(leave_out & VEC_NO_PAL) ? '>' : ' ');
        write_call(stdout, &calls->calls[i]);
    }
}

static void print_count(const char *name, long expected_count, long actual_count)
{
    if (!same_count(expected_count, actual_count))
        printf("  > %s: expected %ld, actual %ld\n", name, expected_count, actual_count);
}

/* Only those that differ. */
static void print_counts(void)
{
    static const char *const names[VEC_COUNTS] = {
        "host calls", "ioctls", "EAUG faults", "exceptions", "ETRACK IPIs", "EAUG", "EACCEPT",
        "EACCEPTCOPY", "EMODPE", "EMODPR", "EMODT", "EREMOVE", "pages zeroed", "pages copied"};

    if (leave_out & VEC_NO_COUNTS || same_counts())
        return;
    printf("counts that differ:\n");
    for (int i = 0; i < VEC_COUNTS; i++)
        print_count(names[i], state.counts[i], actual_counts[i]);
    print_count("EPC pages", state.epc, actual_epc);
}

static void differs(const char *what, const struct table *table)
{
    printf("first difference: %s after event %lu, %s of process %d\n", what, state.number, event.name,
           state.process);
    printf("  args");
    for (int i = 0; i < 6; i++)
        printf(" %" PRIx64, event.args[i]);
    printf(", result %" PRIx64 "\n", (uint64_t)event.result);
    print_table("expected", &expected[state.process], table);
    print_table("actual", table, &expected[state.process]);
    print_calls("expected", &state.pal);
    print_calls("actual", &actual_pal);
    print_counts();
    if (!join && join_calls(&state.pal) | join_calls(&actual_pal) && same_calls())
        printf("the PAL calls are equal if neighbors that change alike are joined: use -j\n");
    exit(1);
}

static void write_state(const struct table *table)
{
    char line[LINE];

    fprintf(out, "state %lu 0 %d %08" PRIx32 " %zu %ld\n", state.number, state.process,
            table_crc(table), table->count, actual_epc);
    fprintf(out, "counts");
    for (int i = 0; i < VEC_COUNTS; i++)
        fprintf(out, " %ld", leave_out & VEC_NO_COUNTS ? VEC_UNKNOWN : actual_counts[i]);
    fprintf(out, "\n%s%s", leave_out & VEC_NO_PAL ? "unknown pal\n" : "",
            leave_out & VEC_NO_INTERNAL ? "unknown internal\n" : "");
    for (size_t i = 0; i < actual_pal.count; i++) {
        fprintf(out, "pal ");
        write_call(out, &actual_pal.calls[i]);
    }
    fprintf(out, "clear\n");
    for (size_t i = 0; i < table->count; i++) {
        vec_format(line, sizeof line, &table->vmas[i]);
        fprintf(out, "vma %s", line);
    }
}

/* The program is loaded: the implementation receives the table that the strategy has then. */
static void load(const struct table *table, int process)
{
    for (size_t i = 0; i < table->count; i++) {
        int kind = VEC_ANONYMOUS;

        for (size_t j = 0; j < init_count; j++)
            if (inits[j].vma.start == table->vmas[i].start)
                kind = inits[j].kind;
        vec_load(process, &table->vmas[i], kind);
    }
    init_count = 0;
}

/* All lines of a state have been read: compare it. */
static void finish_state(void)
{
    struct table table, *wanted;

    if (!state.pending)
        return;
    state.pending = 0;
    wanted = &expected[state.process];
    if (!strcmp(event.name, "end"))
        wanted->count = 0;
    if (unsupported[state.process]) {
        if (out)
            fprintf(out, "state %lu 0 %d 0 0 -1\nunknown table\nunknown pal\nunknown counts\n",
                    state.number, state.process);
        return;
    }
    if (!strcmp(event.name, "load"))
        load(wanted, state.process);
    if (leave_out & VEC_NO_INTERNAL) {
        if (drop_internal(&state.pal))
            leave_out |= VEC_NO_COUNTS;
        else
            leave_out &= ~VEC_NO_INTERNAL;
    }
    table = actual_table(state.process);
    compared++;
    if (!state.first) { /* a fork's child: PAL calls and counts are in the state of the parent */
        actual_pal.count = 0;
        for (int i = 0; i < VEC_COUNTS; i++)
            actual_counts[i] = VEC_UNKNOWN;
    }
    if (out)
        write_state(&table);
    if (join && join_calls(&state.pal) | join_calls(&actual_pal))
        actual_counts[VEC_HOST_CALLS] = actual_counts[VEC_IOCTLS] = VEC_UNKNOWN;
    if (table_crc(wanted) != state.crc)
        die("the table of the file does not have its CRC-32", 0);
    if (table_crc(&table) != state.crc)
        differs("the VMA table", &table);
    if (has_pal && !(leave_out & VEC_NO_PAL) && !same_calls())
        differs("PAL calls", &table);
    if (!(leave_out & VEC_NO_COUNTS) && !same_counts())
        differs("counts", &table);
}

static void happen(const struct vec_item *item)
{
    static const char *const others[] = {"load", "touch", "fork", "thread", "thread-end", "grow", "end"};
    struct vec_pal call;
    int other = 0;

    event = item->event;
    have_event = 1;
    if (event.process < 0 || event.process >= PROCESSES)
        die("too many processes", item->line);
    if (!strcmp(event.name, "fork") && event.args[0] < PROCESSES)
        unsupported[event.args[0]] = unsupported[event.process];
    if (unsupported[event.process])
        return;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        other |= !strcmp(event.name, others[i]);
    if (!strcmp(event.name, "other"))
        leave_out = VEC_UNSUPPORTED; /* what happened is not known */
    else
        leave_out = other ? vec_other(&event) : vec_call(&event);
    if (leave_out & VEC_UNSUPPORTED) {
        unsupported[event.process] = 1;
        printf("process %d: not compared from event %lu on, %s\n", event.process, event.number,
               event.name);
    }
    actual_pal.count = 0;
    while (vec_next_pal(&call))
        append(&actual_pal, &call);
    actual_epc = vec_counts(actual_counts);
}

static void begin_state(const struct vec_item *item)
{
    static unsigned long last = (unsigned long)-1;

    state.first = item->number != last;
    last = item->number;
    state.pending = 1;
    state.number = item->number;
    state.process = item->process;
    state.crc = item->crc;
    state.epc = item->epc;
    state.pal.count = 0;
    memset(state.counts, 0, sizeof state.counts);
    if (item->process < 0 || item->process >= PROCESSES || !have_event)
        die("a state without an event", item->line);
}

static void take(const struct vec_item *item)
{
    static int ours;

    switch (item->item) {
    case VEC_STRATEGY:
        if (strlen(known_strategies) + strlen(item->name) + 3 < sizeof known_strategies) {
            strcat(known_strategies, *known_strategies ? ", " : "");
            strcat(known_strategies, item->name);
        }
        if (strcmp(item->name, strategy))
            return;
        strategy_number = item->strategy;
        merged = item->merged;
        has_pal = item->has_pal;
        if (out)
            fprintf(out, "laconic-vectors 1\nstrategy 0 %s %s %d\n", strategy,
                    merged ? "merged" : "split", has_pal);
        return;
    case VEC_INIT:
        finish_state();
        if (init_count == init_room)
            inits = grown(inits, &init_room, sizeof *inits);
        inits[init_count++] = *item;
        return;
    case VEC_EVENT:
        finish_state();
        ours = 0;
        happen(item);
        return;
    case VEC_STATE:
        finish_state();
        ours = item->strategy == strategy_number;
        states += ours;
        if (ours)
            begin_state(item);
        return;
    }
    if (!ours)
        return;
    switch (item->item) {
    case VEC_COUNTED:
        memcpy(state.counts, item->counts, sizeof state.counts);
        break;
    case VEC_PAL:
        append(&state.pal, &item->pal);
        break;
    case VEC_DROP:
        drop(&expected[state.process], item->vma.start);
        break;
    case VEC_VMA:
        add(&expected[state.process], &item->vma);
        break;
    }
}

static void usage(void)
{
    fprintf(stderr, "usage: zcat FILE | runner [-s STRATEGY] [-j] [-w OUT]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    static struct vec_item item;
    int first;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-j")) {
            join = 1;
            continue;
        }
        if (i + 1 == argc)
            usage();
        if (!strcmp(argv[i], "-s"))
            strategy = argv[i + 1];
        else if (strcmp(argv[i], "-w") || !(out = fopen(argv[i + 1], "w")))
            usage();
        i++;
    }
    first = getc(stdin);
    ungetc(first, stdin);
    if (first == 0x1f)
        die("compressed with gzip: use zcat FILE | runner", 1);
    if (vec_open(stdin, &item))
        die("not a vector file of version 1", 1);
    while (vec_read(stdin, &item) != VEC_END) {
        if (item.item == VEC_HEADER)
            die("another vector file begins here: pass one file at a time", item.line);
        if (item.item == VEC_ERROR)
            die("not an item of a vector file", item.line);
        take(&item);
    }
    finish_state();
    if (out && fclose(out))
        die("the file of -w cannot be written", 0);
    if (strategy_number < 0) {
        fprintf(stderr, "runner: the file has no vectors of %s; it has those of %s\n", strategy,
                known_strategies);
        return 2;
    }
    if (compared == states)
        printf("%lu states compared, no difference\n", compared);
    else
        printf("%lu of %lu states compared, no difference in these\n", compared, states);
    return 0;
}
