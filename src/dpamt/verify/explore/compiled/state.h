/* What a search holds in compiled memory, and how its rows are hashed; see search.c. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ENDED = 1, AT_START = 2, SOFTIRQS_OFF = 4 };          /* flags of a local */
enum { DEAD = 1, WRONG = 2 };                                /* flags of a block */
enum { DONE = 0, UNKNOWN = 1, NO_MEMORY = 2 };               /* why expand stopped */
enum { MOST_FIELDS = 4096, MOST_KEY = 8192 };

enum { MOST_OUTS = 31 }; /* a row that waits for its number names its out in five bits */

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

struct out {                        /* what a thread found while it expanded a segment */
    uint64_t *rows, *hashes;
    uint32_t *parents, *targets, *places; /* places: of a new row, in its part of the table */
    uint16_t *moves;
    uint32_t **picked;              /* by part of the table: its rows, in order */
    int64_t *picked_used;
    int64_t used, room;
    int64_t first, done, stopped;   /* states: first of the segment, expanded; why it stopped */
    uint64_t missing;               /* what was looked for last; where it stopped, what is missing */
    uint32_t *state_rows, *state_moves; /* by state of the segment: rows, moves */
    uint8_t *state_ends;            /* 1: nothing follows; 2: something after which nothing can */
    int64_t state_room;
    int64_t *fresh, base;           /* by part of the table: new rows; the number of the first one */
    char apart[64];                 /* what the next thread writes is in another cache line */
};

struct part {                       /* of the table: all have the same mask */
    uint32_t *table;
    uint64_t mask;
    int64_t used;
    char apart[64];                 /* as in struct out */
};

struct team {                       /* threads at work on one chunk (team.c) */
    pthread_mutex_t lock;
    pthread_cond_t all_here;
    int64_t round, first, end, most;
    int32_t threads, here, segments, next, first_stopped, stopped, made;
};

struct search {
    struct tables t;
    struct column rows, parents, moves, onward;
    int64_t count, room, expanded, transitions;
    struct entry *entries;
    int64_t entry_used, entry_room;
    int32_t *keys;
    int64_t key_used, key_room;
    int32_t parts, outs, words;
    struct part *part;
    struct out *out;
    uint32_t *ends;
    int64_t end_used, end_room;
    struct team team;
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
