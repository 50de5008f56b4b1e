/*
 * The inner loop of a search, compiled: expand, sort, look up, append.
 *
 * Theory.  Once the blocks of every thread are learned, a state is a row of small integers: the
 * values of the shared slots by number, and the sorted locals of each class of threads.  What a
 * thread may do next depends on its local and on the slots that its blocks read, so it is one look
 * into a table.  The code here knows nothing of the model.  It runs over states in the order in
 * which they were found, and stops before the first state that needs something that it was not
 * given: Python learns it (explore/blocks.py), adds it to the tables, and calls again.  So blocks
 * are learned in the same order as in the search in Python, and states, numbers and edges are the
 * same.  dpamt/verify/explore/compiled/engine.py is the only caller.
 *
 * A state is kept exactly, in 64-bit words, each field in as many bits as its values need.  Threads
 * share the work in three passes over a chunk of states, and the order of states does not depend
 * on how many threads there are:
 *
 *   expand   each thread has a part of the chunk and writes down the states that follow;
 *   look_up  each thread has a part of the hash values, and finds those states in its own table;
 *   commit   one thread gives the new ones their numbers, in order.
 *
 * Of edges only the one to the highest number is kept (``onward``): it decides nearly always
 * whether a state leads to an end.  Where it does not, the state is expanded once more.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ENDED = 1, AT_START = 2, SOFTIRQS_OFF = 4 };          /* flags of a local */
enum { DEAD = 1, WRONG = 2 };                                /* flags of a block */
enum { DONE = 0, UNKNOWN = 1, NO_MEMORY = 2 };               /* why expand stopped */
enum { MOST_FIELDS = 4096, MOST_KEY = 8192 };

#define AHEAD 16 /* rows: their places in the table are fetched before they are needed */
#define PENDING 0x80000000u
#define SEGMENT_SHIFT 26
#define INDEX_MASK ((1u << SEGMENT_SHIFT) - 1)

/* What Python has learned; it owns every array.  Filled anew before each call. */
struct tables {
    int32_t slots, threads, classes, words, locals, interrupts, ordered, unused;
    const int32_t *class_first;     /* classes + 1 positions */
    const int32_t *phase;           /* by position */
    const int32_t *interrupt;       /* pairs: position of the upper thread, of the lower one */
    const int32_t *field_word, *field_shift; /* by field: slots, then positions */
    const uint64_t *field_mask;
    const uint8_t *local_flags;     /* by local */
    const int32_t *generation;      /* by local: counts how often what its blocks read changed */
    const int32_t *read_first, *read_count, *reads;
    const int32_t *page_set;        /* by local: row of contribution, -1: none */
    const int32_t *contribution;    /* page set * locals + local */
    const int32_t *block_local, *write_first, *write_count, *writes; /* writes: slot, value */
    const uint8_t *block_flags;
    const int32_t *block_fill;      /* row of felt, -1: none */
    const int32_t *felt;            /* fill * locals + local; -1: not learned */
};

/* An array that grows, in memory or in a file. */
struct column {
    char *at;
    int64_t bytes;
    int32_t file;                   /* -1: in memory */
    int32_t unused;
};

struct entry {
    uint64_t hash;
    int32_t local, generation, key, length, first, count;
};

struct out {                        /* what one thread found while it expanded its part */
    uint64_t *rows, *hashes;
    uint32_t *parents, *targets, *places; /* places: of a new row, in its part of the table */
    uint16_t *moves;
    uint32_t **picked;              /* by part of the table: its rows, in order */
    int64_t *picked_used;
    int64_t used, room;
    int64_t first, done, stopped;   /* states: first of the part, expanded, why it stopped */
    uint64_t missing;               /* what was looked for last; where it stopped, what is missing */
    uint32_t *state_rows, *state_moves; /* by state of the part: rows, moves */
    uint8_t *state_ends;            /* 1: nothing follows; 2: something after which nothing can */
    int64_t state_room;
};

struct part { uint32_t *table; uint64_t mask; int64_t used; };

struct search {
    struct tables t;
    struct column rows, parents, moves, onward;
    int64_t count, room, expanded, transitions;
    struct entry *entries;
    int64_t entry_used, entry_room;
    int32_t *keys;
    int64_t key_used, key_room;
    int32_t parts, words;
    struct part *part;
    struct out *out;
    uint32_t *ends;
    int64_t end_used, end_room;
};

static uint64_t mixed(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)(a ^ 0x9e3779b97f4a7c15ull) * (b ^ 0xe7037ed1a0b428dbull);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t row_hash(const uint64_t *row, int32_t words)
{
    uint64_t hash = 0x8ebc6af09c88c6e3ull;
    for (int32_t n = 0; n < words; n++)
        hash = mixed(hash, row[n] + 0x589965cc75374cc3ull);
    return hash;
}

static int same_row(const uint64_t *a, const uint64_t *b, int32_t words)
{
    for (int32_t n = 0; n < words; n++)
        if (a[n] != b[n])
            return 0;
    return 1;
}

static int part_of(const struct search *s, uint64_t hash)
{
    return (int)(((hash >> 32) * (uint64_t)s->parts) >> 32);
}

/* Memory. */

/* A file of that size whose blocks are there: a write into a hole of a full disk is fatal. */
static int reserve(int file, int64_t before, int64_t bytes)
{
#ifdef __linux__
    return posix_fallocate(file, before, bytes - before);
#else
    (void)before;
    return ftruncate(file, bytes);
#endif
}

static int grow(struct column *c, int64_t bytes)
{
    if (bytes <= c->bytes)
        return 0;
    if (c->file < 0) {
        char *at = realloc(c->at, (size_t)bytes);
        if (!at)
            return -1;
        c->at = at;
    } else {
        if (reserve(c->file, c->bytes, bytes))
            return -1;
        if (c->at && munmap(c->at, (size_t)c->bytes))
            return -1;
        c->at = mmap(0, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->file, 0);
        if (c->at == MAP_FAILED) {
            c->at = 0;
            c->bytes = 0;
            return -1;
        }
    }
    c->bytes = bytes;
    return 0;
}

static int make_room(struct search *s, int64_t count)
{
    if (count <= s->room)
        return 0;
    int64_t room = count + count / 8 + 4096;
    if (grow(&s->rows, room * s->words * 8) || grow(&s->parents, room * 4) ||
        grow(&s->moves, room * 2) || grow(&s->onward, room * 4))
        return -1;
    s->room = room;
    return 0;
}

static void drop(struct column *c)
{
    if (c->file < 0)
        free(c->at);
    else if (c->at)
        munmap(c->at, (size_t)c->bytes);
    c->at = 0;
    c->bytes = 0;
}

static int to_file(struct column *c, int file)
{
    struct column moved = {0, 0, file, 0};
    if (grow(&moved, c->bytes ? c->bytes : 4096))
        return -1;
    memcpy(moved.at, c->at, (size_t)c->bytes);
    drop(c);
    *c = moved;
    return 0;
}

static struct column *column_of(struct search *s, int which)
{
    struct column *all[] = {&s->rows, &s->parents, &s->moves, &s->onward};
    return all[which];
}

static int64_t item_bytes(const struct search *s, int which)
{
    const int64_t sizes[] = {(int64_t)s->words * 8, 4, 2, 4};
    return sizes[which];
}

/* Keep the states in four files from now on; the caller opened them and closes them at the end. */
int dpamt_spill(struct search *s, const int32_t *files)
{
    for (int n = 0; n < 4; n++)
        if (to_file(column_of(s, n), files[n]))
            return -1;
    return 0;
}

/* Let the system take back the memory of what lies in files. */
void dpamt_relax(struct search *s)
{
    for (int n = 0; n < 4; n++) {
        struct column *c = column_of(s, n);
        if (c->file >= 0 && c->at)
            madvise(c->at, (size_t)c->bytes, MADV_DONTNEED);
    }
}

struct search *dpamt_begin(int32_t parts)
{
    struct search *s = calloc(1, sizeof *s);
    if (!s)
        return 0;
    s->rows.file = s->parents.file = s->moves.file = s->onward.file = -1;
    s->parts = parts;
    s->part = calloc((size_t)parts, sizeof *s->part);
    s->out = calloc((size_t)parts, sizeof *s->out);
    for (int32_t n = 0; s->out && n < parts; n++) {
        s->out[n].picked = calloc((size_t)parts, sizeof *s->out[n].picked);
        s->out[n].picked_used = calloc((size_t)parts, sizeof *s->out[n].picked_used);
        if (!s->out[n].picked || !s->out[n].picked_used)
            return 0;
    }
    s->entry_room = 1024;
    s->entries = calloc((size_t)s->entry_room, sizeof *s->entries);
    for (int32_t n = 0; s->part && n < parts; n++) {
        s->part[n].mask = 4095;
        s->part[n].table = calloc(4096, 4);
        if (!s->part[n].table)
            s->entry_room = 0;
    }
    if (!s->part || !s->out || !s->entries || !s->entry_room)
        return 0; /* the process has no memory left, and ends */
    return s;
}

void dpamt_end(struct search *s)
{
    drop(&s->rows);
    drop(&s->parents);
    drop(&s->moves);
    drop(&s->onward);
    for (int32_t n = 0; n < s->parts; n++) {
        struct out *o = s->out + n;
        free(s->part[n].table);
        free(o->rows);
        free(o->hashes);
        free(o->parents);
        free(o->targets);
        free(o->places);
        for (int32_t k = 0; k < s->parts; k++)
            free(o->picked[k]);
        free(o->picked);
        free(o->picked_used);
        free(o->moves);
        free(o->state_rows);
        free(o->state_moves);
        free(o->state_ends);
    }
    free(s->part);
    free(s->out);
    free(s->entries);
    free(s->keys);
    free(s->ends);
    free(s);
}

struct tables *dpamt_tables(struct search *s) { return &s->t; }

/* Fields. */

static int32_t field(const struct tables *t, const uint64_t *row, int32_t n)
{
    return (int32_t)(row[t->field_word[n]] >> t->field_shift[n] & t->field_mask[n]);
}

static void put_field(const struct tables *t, uint64_t *row, int32_t n, int32_t value)
{
    uint64_t *word = row + t->field_word[n];
    *word = (*word & ~(t->field_mask[n] << t->field_shift[n])) |
            (uint64_t)value << t->field_shift[n];
}

static void unpack(const struct tables *t, const uint64_t *row, int32_t *values)
{
    for (int32_t n = 0; n < t->slots + t->threads; n++)
        values[n] = field(t, row, n);
}

static const uint64_t *row_of(const struct search *s, int64_t state)
{
    return (const uint64_t *)s->rows.at + state * s->words;
}

void dpamt_state(struct search *s, int64_t state, int32_t *values)
{
    unpack(&s->t, row_of(s, state), values);
}

/* Blocks by local and by what they read. */

static uint64_t key_hash(int32_t local, int32_t generation, const int32_t *key, int32_t length)
{
    uint64_t hash = mixed((uint64_t)local << 32 | (uint32_t)generation, (uint64_t)length + 1);
    for (int32_t n = 0; n < length; n++)
        hash = (hash ^ (uint32_t)key[n]) * 0xff51afd7ed558ccdull;
    return hash ^ hash >> 32;
}

static struct entry *entry_at(const struct search *s, uint64_t hash, int32_t local,
                              const int32_t *key, int32_t length)
{
    int32_t generation = s->t.generation[local];
    for (uint64_t at = hash;; at++) {
        struct entry *e = s->entries + (at & (uint64_t)(s->entry_room - 1));
        if (!e->hash)
            return e;
        if (e->hash == hash && e->local == local && e->generation == generation &&
            e->length == length &&
            !memcmp(s->keys + e->key, key, (size_t)length * sizeof *key))
            return e;
    }
}

/* What the blocks of the thread at a position depend on; its length. */
static int32_t key_of(const struct tables *t, const int32_t *values, int32_t position,
                      int32_t *key)
{
    int32_t local = values[t->slots + position];
    const int32_t *reads = t->reads + t->read_first[local];
    int32_t length = t->read_count[local];
    for (int32_t n = 0; n < length; n++)
        key[n] = values[reads[n]];
    if (t->page_set[local] < 0)
        return length;
    const int32_t *row = t->contribution + (int64_t)t->page_set[local] * t->locals;
    int32_t first = length;
    for (int32_t other = 0; other < t->threads; other++) {
        int32_t part = row[values[t->slots + other]];
        if (other == position || !part)
            continue;
        int32_t at = length++;
        for (; at > first && key[at - 1] > part; at--)
            key[at] = key[at - 1];
        key[at] = part;
    }
    return length;
}

/* Add the blocks of the thread at a position of a state; 0: they were known; -1: no memory. */
int dpamt_add(struct search *s, const int32_t *values, int32_t position, int32_t first,
              int32_t count)
{
    int32_t key[MOST_KEY], local = values[s->t.slots + position];
    int32_t length = key_of(&s->t, values, position, key);
    uint64_t hash = key_hash(local, s->t.generation[local], key, length) | 1;
    struct entry *e = entry_at(s, hash, local, key, length);
    if (e->hash)
        return 0;
    if (s->key_used + length > s->key_room) {
        s->key_room = 2 * s->key_room + length + 1024;
        s->keys = realloc(s->keys, (size_t)s->key_room * sizeof *s->keys);
        if (!s->keys)
            return -1;
    }
    memcpy(s->keys + s->key_used, key, (size_t)length * sizeof *key);
    *e = (struct entry){hash, local, s->t.generation[local], (int32_t)s->key_used, length, first,
                        count};
    s->key_used += length;
    if (++s->entry_used * 2 > s->entry_room) {
        struct entry *old = s->entries;
        int64_t room = s->entry_room;
        s->entry_room *= 2;
        s->entries = calloc((size_t)s->entry_room, sizeof *s->entries);
        if (!s->entries)
            return -1;
        for (int64_t n = 0; n < room; n++) {
            if (!old[n].hash)
                continue;
            uint64_t at = old[n].hash;
            while (s->entries[at & (uint64_t)(s->entry_room - 1)].hash)
                at++;
            s->entries[at & (uint64_t)(s->entry_room - 1)] = old[n];
        }
        free(old);
    }
    return 1;
}

/* Expand. */

static int room_for_row(struct out *o, int32_t words, int32_t parts)
{
    if (o->used < o->room)
        return 0;
    int64_t room = o->room * 2 + 4096;
    if (room > INDEX_MASK)
        return -1;
    o->rows = realloc(o->rows, (size_t)room * (size_t)words * 8);
    o->hashes = realloc(o->hashes, (size_t)room * 8);
    o->parents = realloc(o->parents, (size_t)room * 4);
    o->targets = realloc(o->targets, (size_t)room * 4);
    o->places = realloc(o->places, (size_t)room * 4);
    o->moves = realloc(o->moves, (size_t)room * 2);
    if (!o->rows || !o->hashes || !o->parents || !o->targets || !o->places || !o->moves)
        return -1;
    for (int32_t n = 0; n < parts; n++) {
        o->picked[n] = realloc(o->picked[n], (size_t)room * 4);
        if (!o->picked[n])
            return -1;
    }
    o->room = room;
    return 0;
}

static int room_for_states(struct out *o, int64_t states)
{
    if (states <= o->state_room)
        return 0;
    o->state_rows = realloc(o->state_rows, (size_t)states * 4);
    o->state_moves = realloc(o->state_moves, (size_t)states * 4);
    o->state_ends = realloc(o->state_ends, (size_t)states);
    if (!o->state_rows || !o->state_moves || !o->state_ends)
        return -1;
    o->state_room = states;
    return 0;
}

static int enabled(const struct tables *t, const int32_t *locals, int32_t position, int32_t open)
{
    if (t->phase[position] > open)
        return 0;
    for (int32_t n = 0; n < t->interrupts; n++) {
        int32_t upper = t->interrupt[2 * n], lower = t->interrupt[2 * n + 1];
        uint8_t top = t->local_flags[locals[upper]];
        if (position == lower && !(top & ENDED) && !(top & AT_START))
            return 0;
        if (position == upper && (top & AT_START) &&
            (t->local_flags[locals[lower]] & SOFTIRQS_OFF))
            return 0;
    }
    return 1;
}

/* The lowest phase of a thread that has not ended. */
static int32_t open_phase(const struct tables *t, const int32_t *locals)
{
    int32_t open = INT32_MAX;
    for (int32_t n = 0; n < t->threads; n++)
        if (!(t->local_flags[locals[n]] & ENDED) && t->phase[n] < open)
            open = t->phase[n];
    return open;
}

/* One thread of a sorted class has gone on: put its new local where it belongs. */
static void put_local(const struct tables *t, uint64_t *row, const int32_t *locals, int32_t low,
                      int32_t high, int32_t position, int32_t local)
{
    int32_t at = position;
    if (local > locals[position]) {
        for (; at + 1 < high && locals[at + 1] < local; at++)
            put_field(t, row, t->slots + at, locals[at + 1]);
    } else {
        for (; at > low && locals[at - 1] > local; at--)
            put_field(t, row, t->slots + at, locals[at - 1]);
    }
    put_field(t, row, t->slots + at, local);
}

/* The thread has written whole pages that others' own words lie in; -1: not learned. */
static int put_filled(const struct tables *t, uint64_t *row, const int32_t *locals,
                      int32_t position, int32_t local, int32_t fill)
{
    const int32_t *felt = t->felt + (int64_t)fill * t->locals;
    int32_t sorted[MOST_FIELDS];
    for (int32_t kind = 0; kind < t->classes; kind++) {
        int32_t low = t->class_first[kind], high = t->class_first[kind + 1];
        for (int32_t n = low; n < high; n++) {
            int32_t now = n == position ? local : felt[locals[n]];
            if (now < 0)
                return -1;
            int32_t at = n;
            for (; at > low && sorted[at - 1] > now; at--)
                sorted[at] = sorted[at - 1];
            sorted[at] = now;
        }
    }
    for (int32_t n = 0; n < t->threads; n++)
        put_field(t, row, t->slots + n, sorted[n]);
    return 0;
}

static int expand_one(struct search *s, uint32_t state, struct out *o, int64_t index)
{
    const struct tables *t = &s->t;
    const uint64_t *from = row_of(s, state);
    int32_t values[MOST_FIELDS], key[MOST_KEY], moves = 0, words = s->words;
    const int32_t *locals = values + t->slots;
    int64_t first = o->used;
    uint8_t ends = 0;
    unpack(t, from, values);
    int32_t open = t->ordered ? open_phase(t, locals) : 0;
    for (int32_t kind = 0; kind < t->classes; kind++) {
        int32_t low = t->class_first[kind], high = t->class_first[kind + 1], last = -1;
        for (int32_t position = low; position < high; position++) {
            int32_t local = locals[position];
            if (local == last || (t->local_flags[local] & ENDED))
                continue; /* an equal thread would do the same */
            last = local;
            if (t->ordered && !enabled(t, locals, position, open))
                continue;
            int32_t length = key_of(t, values, position, key);
            uint64_t hash = key_hash(local, t->generation[local], key, length) | 1;
            o->missing = hash;
            const struct entry *e = entry_at(s, hash, local, key, length);
            if (!e->hash)
                goto unknown;
            for (int32_t way = 0; way < e->count; way++) {
                int32_t block = e->first + way;
                uint8_t flags = t->block_flags[block];
                if (flags & WRONG)
                    goto unknown;
                moves++;
                if (flags & DEAD) {
                    ends |= 2;
                    continue;
                }
                if (room_for_row(o, words, s->parts)) {
                    o->used = first;
                    return NO_MEMORY;
                }
                uint64_t *row = o->rows + o->used * words;
                for (int32_t n = 0; n < words; n++)
                    row[n] = from[n];
                const int32_t *write = t->writes + 2 * (int64_t)t->write_first[block];
                for (int32_t n = 0; n < t->write_count[block]; n++)
                    put_field(t, row, write[2 * n], write[2 * n + 1]);
                if (t->block_fill[block] < 0)
                    put_local(t, row, locals, low, high, position, t->block_local[block]);
                else if (put_filled(t, row, locals, position, t->block_local[block],
                                    t->block_fill[block]))
                    goto unknown;
                hash = row_hash(row, words);
                o->hashes[o->used] = hash;
                o->parents[o->used] = state;
                o->moves[o->used] = (uint16_t)(position << 8 | way);
                o->used++;
            }
        }
    }
    o->state_rows[index] = (uint32_t)(o->used - first);
    o->state_moves[index] = (uint32_t)moves;
    o->state_ends[index] = moves ? ends : 1;
    return DONE;
unknown:
    o->used = first;
    return UNKNOWN;
}

/* Deal the rows out to the parts of the table. */
static void deal(const struct search *s, struct out *o)
{
    for (int32_t n = 0; n < s->parts; n++)
        o->picked_used[n] = 0;
    for (int64_t i = 0; i < o->used; i++) {
        int part = part_of(s, o->hashes[i]);
        o->picked[part][o->picked_used[part]++] = (uint32_t)i;
    }
}

/* Pass 1 of a chunk, for one thread: expand states from ``first`` to before ``end``. */
void dpamt_expand(struct search *s, int32_t part, int64_t first, int64_t end)
{
    struct out *o = s->out + part;
    o->used = 0;
    o->first = first;
    o->done = 0;
    o->stopped = room_for_states(o, end - first) ? NO_MEMORY : DONE;
    while (!o->stopped && first + o->done < end) {
        o->stopped = expand_one(s, (uint32_t)(first + o->done), o, o->done);
        o->done += !o->stopped;
    }
    deal(s, o);
}

/* Pass 2: find the states of a chunk in one part of the table. */

static int rebuilt(struct search *s, int32_t part, int64_t most)
{
    struct part *p = s->part + part;
    uint64_t size = p->mask + 1;
    while (size * 7 / 10 < (uint64_t)most)
        size *= 2;
    if (size == p->mask + 1)
        return 0;
    free(p->table);
    p->table = calloc(size, 4);
    if (!p->table)
        return -1;
    p->mask = size - 1;
    p->used = 0;
    for (int64_t state = 0; state < s->count; state++) {
        uint64_t hash = row_hash(row_of(s, state), s->words);
        if (part_of(s, hash) != part)
            continue;
        uint64_t at = hash & p->mask;
        while (p->table[at])
            at = (at + 1) & p->mask;
        p->table[at] = (uint32_t)state + 1;
        p->used++;
    }
    return 0;
}

static const uint64_t *pending_row(const struct search *s, uint32_t code)
{
    const struct out *o = s->out + ((code & ~PENDING) >> SEGMENT_SHIFT);
    return o->rows + (int64_t)(code & INDEX_MASK) * s->words;
}

/* ``segments``: how many outs hold the chunk.  Of each row: its state + 1; PENDING and where the
 * row stands that is the same and new; for a new one, itself.  -1: no memory. */
int dpamt_look_up(struct search *s, int32_t part, int32_t segments)
{
    struct part *p = s->part + part;
    int64_t more = 0;
    int32_t words = s->words;
    for (int32_t n = 0; n < segments; n++)
        more += s->out[n].picked_used[part];
    if (rebuilt(s, part, p->used + more)) /* all of them may be new and fall on this part */
        return -1;
    for (int32_t n = 0; n < segments; n++) {
        struct out *o = s->out + n;
        const uint32_t *mine = o->picked[part];
        int64_t count = o->picked_used[part];
        for (int64_t k = 0; k < count; k++) {
            if (k + AHEAD < count)
                __builtin_prefetch(p->table + (o->hashes[mine[k + AHEAD]] & p->mask));
            if (k + AHEAD / 2 < count) {
                uint32_t near = p->table[o->hashes[mine[k + AHEAD / 2]] & p->mask];
                if (near && !(near & PENDING))
                    __builtin_prefetch(row_of(s, near - 1));
            }
            int64_t i = mine[k];
            uint64_t hash = o->hashes[i];
            const uint64_t *row = o->rows + i * words;
            uint64_t at = hash & p->mask;
            for (;; at = (at + 1) & p->mask) {
                uint32_t found = p->table[at];
                if (!found) {
                    p->table[at] = o->targets[i] = PENDING | (uint32_t)n << SEGMENT_SHIFT |
                                                   (uint32_t)i;
                    p->used++;
                    o->places[i] = (uint32_t)at;
                    break;
                }
                const uint64_t *there =
                    found & PENDING ? pending_row(s, found) : row_of(s, found - 1);
                if (same_row(row, there, words)) {
                    o->targets[i] = found;
                    break;
                }
            }
        }
    }
    return 0;
}

/* The state of a row; -1: there is none. */
static int64_t number_of(const struct search *s, const uint64_t *row, uint64_t hash)
{
    const struct part *p = s->part + (s->parts > 1 ? part_of(s, hash) : 0);
    for (uint64_t at = hash & p->mask; p->table[at]; at = (at + 1) & p->mask)
        if (same_row(row, row_of(s, p->table[at] - 1), s->words))
            return (int64_t)p->table[at] - 1;
    return -1;
}

/* Pass 3: give the new states of a chunk their numbers, in order, until there are more than
 * ``most``.  Returns how many states are expanded now; -1: no memory. */
int64_t dpamt_commit(struct search *s, int32_t segments, int64_t most)
{
    int64_t more = 0;
    int32_t words = s->words;
    for (int32_t n = 0; n < segments; n++)
        more += s->out[n].used;
    if (make_room(s, s->count + more))
        return -1;
    uint32_t *parents = (uint32_t *)s->parents.at, *onward = (uint32_t *)s->onward.at;
    uint16_t *moves = (uint16_t *)s->moves.at;
    for (int32_t n = 0; n < segments; n++) {
        struct out *o = s->out + n;
        int64_t i = 0;
        for (int64_t state = 0; state < o->done; state++) {
            uint32_t here = (uint32_t)(o->first + state), highest = here;
            int any = 0;
            for (uint32_t k = 0; k < o->state_rows[state]; k++, i++) {
                uint32_t code = o->targets[i], number = code - 1;
                if (code == (PENDING | (uint32_t)n << SEGMENT_SHIFT | (uint32_t)i)) {
                    number = (uint32_t)s->count++;
                    memcpy((uint64_t *)s->rows.at + (int64_t)number * words,
                           o->rows + i * words, (size_t)words * 8);
                    parents[number] = here;
                    moves[number] = o->moves[i];
                    onward[number] = number;
                    s->part[part_of(s, o->hashes[i])].table[o->places[i]] = number + 1;
                    o->targets[i] = number + 1;
                } else if (code & PENDING) {
                    struct out *there = s->out + ((code & ~PENDING) >> SEGMENT_SHIFT);
                    number = there->targets[code & INDEX_MASK] - 1;
                    o->targets[i] = number + 1;
                }
                highest = !any || number > highest ? number : highest;
                any = 1;
            }
            onward[here] = highest;
            s->transitions += o->state_moves[state];
            if (o->state_ends[state]) {
                if (s->end_used == s->end_room) {
                    s->end_room = 2 * s->end_room + 1024;
                    s->ends = realloc(s->ends, (size_t)s->end_room * 4);
                    if (!s->ends)
                        return -1;
                }
                s->ends[s->end_used++] = here << 1 | (o->state_ends[state] == 1);
            }
            s->expanded = here + 1;
            if (s->count > most)
                return s->expanded;
        }
        if (o->stopped)
            break;
    }
    return s->expanded;
}

/* Take over states from elsewhere. */

/* Append a state from its fields; the caller knows that it is new.  -1: no memory. */
int dpamt_append(struct search *s, const int32_t *values, uint32_t parent, uint16_t move,
                 uint32_t onward)
{
    if (make_room(s, s->count + 1))
        return -1;
    uint64_t *row = (uint64_t *)s->rows.at + s->count * s->words;
    memset(row, 0, (size_t)s->words * 8);
    for (int32_t n = 0; n < s->t.slots + s->t.threads; n++)
        put_field(&s->t, row, n, values[n]);
    ((uint32_t *)s->parents.at)[s->count] = parent;
    ((uint16_t *)s->moves.at)[s->count] = move;
    ((uint32_t *)s->onward.at)[s->count] = onward;
    s->count++;
    return 0;
}

static int table_again(struct search *s)
{
    for (int32_t n = 0; n < s->parts; n++) {
        s->part[n].mask = 0;
        if (rebuilt(s, n, s->count / s->parts + s->count / 8 + 4096))
            return -1;
    }
    return 0;
}

/* After states were appended, or fields are laid out in another way.  ``before``: the old layout,
 * 0 where it is the same.  -1: no memory. */
int dpamt_settle(struct search *s, const struct tables *before, int32_t words_before)
{
    int32_t words = s->words = s->t.words;
    if (before && s->count) {
        if (words > words_before && grow(&s->rows, s->room * words * 8))
            return -1;
        const uint64_t *from = (const uint64_t *)s->rows.at;
        int up = words <= words_before;
        for (int64_t n = 0; n < s->count; n++) {
            int64_t state = up ? n : s->count - 1 - n;
            int32_t values[MOST_FIELDS] = {0};
            int32_t slots = before->slots;
            for (int32_t k = 0; k < slots; k++)
                values[k] = field(before, from + state * words_before, k);
            for (int32_t k = 0; k < before->threads; k++)
                values[s->t.slots + k] = field(before, from + state * words_before, slots + k);
            uint64_t *row = (uint64_t *)s->rows.at + state * words;
            memset(row, 0, (size_t)words * 8);
            for (int32_t k = 0; k < s->t.slots + s->t.threads; k++)
                put_field(&s->t, row, k, values[k]);
        }
    }
    for (int32_t n = 0; n < s->parts; n++)
        s->out[n].room = 0; /* rows of another width */
    return table_again(s);
}

/* The first state from which no way leads to an end; -1: there is none; -2: no memory; below
 * -15: state -n - 16 needs something that was not given.  Asked when all states are expanded. */
int64_t dpamt_stuck(struct search *s)
{
    const uint32_t *onward = (const uint32_t *)s->onward.at;
    uint8_t *leads = calloc((size_t)s->count, 1);
    int64_t stuck = -1, left = s->count;
    if (!leads)
        return -2;
    for (int64_t n = 0; n < s->end_used; n++)
        leads[s->ends[n] >> 1] = 1;
    for (int changed = 1; changed;) { /* edges mostly lead up: nearly all in one pass down */
        changed = 0;
        left = 0;
        for (int64_t n = s->count - 1; n >= 0; n--) {
            if (!leads[n] && leads[onward[n]])
                leads[n] = 1, changed = 1;
            left += !leads[n];
        }
    }
    struct out *o = s->out;
    if (left && room_for_states(o, 1))
        stuck = -2;
    for (int changed = 1; changed && left && stuck == -1;) {
        changed = 0;
        for (int64_t n = s->count - 1; n >= 0 && stuck == -1; n--) {
            if (leads[n])
                continue;
            o->used = 0;
            int why = expand_one(s, (uint32_t)n, o, 0);
            if (why)
                stuck = why == UNKNOWN ? -n - 16 : -2;
            for (int64_t i = 0; !why && i < o->used && !leads[n]; i++) {
                int64_t to = number_of(s, o->rows + i * s->words, o->hashes[i]);
                if (to >= 0 && leads[to])
                    leads[n] = 1, changed = 1, left--;
            }
        }
    }
    for (int64_t n = 0; n < s->count && left && stuck == -1; n++)
        if (!leads[n])
            stuck = n;
    free(leads);
    return stuck;
}

/* What the caller asks: numbers, and single items. */

/* states, expanded states, transitions, ends. */
void dpamt_numbers(const struct search *s, int64_t *numbers)
{
    numbers[0] = s->count;
    numbers[1] = s->expanded;
    numbers[2] = s->transitions;
    numbers[3] = s->end_used;
}

/* Why a thread stopped to expand; how many states of its part it has expanded. */
int64_t dpamt_stopped(const struct search *s, int32_t part, int64_t *done)
{
    *done = s->out[part].done;
    return s->out[part].stopped;
}

uint32_t dpamt_parent(const struct search *s, int64_t n) { return ((uint32_t *)s->parents.at)[n]; }
uint16_t dpamt_move(const struct search *s, int64_t n) { return ((uint16_t *)s->moves.at)[n]; }

/* state << 1 | whether nothing follows it at all. */
uint32_t dpamt_end_at(const struct search *s, int64_t n) { return s->ends[n]; }

/* Go on with what was found before: states expanded, transitions, ends (as dpamt_end_at). */
int dpamt_go_on(struct search *s, int64_t expanded, int64_t transitions, const uint32_t *ends,
                int64_t count)
{
    free(s->ends);
    s->ends = malloc((size_t)(count + 1) * 4);
    if (!s->ends)
        return -1;
    memcpy(s->ends, ends, (size_t)count * 4);
    s->end_used = s->end_room = count;
    s->expanded = expanded;
    s->transitions = transitions;
    return 0;
}

/* The bytes of a column: 0 rows, 1 parents, 2 moves, 3 onward; how many in ``bytes``. */
const void *dpamt_column(struct search *s, int32_t which, int64_t *bytes)
{
    *bytes = s->count * item_bytes(s, which);
    return column_of(s, which)->at;
}

/* Begin with ``count`` states, their columns as dpamt_column gave them.  ``most``: by field, the
 * highest value.  0; -1: no memory; -2: they are no states of a search. */
int dpamt_load(struct search *s, int64_t count, const void *const *columns, const int32_t *most)
{
    s->words = s->t.words;
    if (make_room(s, count))
        return -1;
    for (int n = 0; n < 4; n++)
        memcpy(column_of(s, n)->at, columns[n], (size_t)(count * item_bytes(s, n)));
    s->count = count;
    const uint32_t *parents = (uint32_t *)s->parents.at, *onward = (uint32_t *)s->onward.at;
    for (int64_t state = 0; state < count; state++) {
        if (onward[state] >= count || parents[state] >= (state ? state : 1))
            return -2;
        for (int32_t n = 0; n < s->t.slots + s->t.threads; n++)
            if (field(&s->t, row_of(s, state), n) > most[n])
                return -2;
    }
    return 0;
}
