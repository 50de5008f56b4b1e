/*
 * One shard of a search that several processes share: its states, and what it asks of the others.
 *
 * Theory.  A state belongs to the shard that a sum over its fields names.  The sum is of values and
 * locals, not of the packed row, so a state keeps its shard when fields get another layout.  Inside
 * a shard states have numbers in the order in which they came; (shard, number) names one for all.
 * A depth is expanded in rounds, and all shards do the same step of a round before the next one:
 *
 *   expand   each expands some of its states, and files the rows that follow by their shard, each
 *            row once; states that need what was not learned are set aside for the next round;
 *   take     each looks up the rows that are its own, appends the new ones, and says their numbers;
 *   settle   each writes down, of the edges of a state, the one to the highest number (``onward``).
 *
 * Shards grow alike, for the sum spreads states evenly: so the highest number is mostly that of the
 * deepest state, and ``onward`` decides nearly always whether a state leads to an end.  That is
 * asked from the deepest states to the first (``ask``, ``answer``, ``hear``), and where ``onward``
 * does not decide, of all edges.  dpamt/verify/cluster/worker.py is the only caller.
 */
#include "search.c"

enum { MOST_MISSING = 256 }; /* things to learn that are asked for in a round */

struct batch {               /* rows for one shard; of a question by number, parents alone */
    uint64_t *rows;
    uint32_t *parents;
    uint16_t *moves;
    int64_t used, room;
};

struct shard {
    struct search *s;
    int32_t count, index;
    struct column from, to;           /* by state: shard of its parent; of its onward state */
    int64_t next, level_end;          /* of this depth: first that was not tried; its end */
    struct batch *batch;              /* by shard */
    uint32_t *seen;                   /* rows of the round by hash: number in out + 1 */
    int64_t seen_room, row_room, state_room, aside_room;
    uint32_t *place;                  /* by row of the round: where it is in its batch */
    uint16_t *owner;
    uint32_t *states;                 /* the states of the round */
    int64_t states_used;
    uint32_t *aside;                  /* states that wait for something to be learned */
    int64_t aside_used;
    uint64_t missing[MOST_MISSING];   /* what is asked for, and the first state that needs it */
    int64_t asked[MOST_MISSING];
    int64_t missing_used;
    uint8_t *leads;                   /* by state: whether a way leads to an end */
};

struct shard *dpamt_shard_begin(int32_t count, int32_t index)
{
    struct shard *h = calloc(1, sizeof *h);
    if (!h)
        return 0;
    h->count = count;
    h->index = index;
    h->from.file = h->to.file = -1;
    h->batch = calloc((size_t)count, sizeof *h->batch);
    h->s = dpamt_begin(1);
    return h->batch && h->s ? h : 0;
}

void dpamt_shard_end(struct shard *h)
{
    for (int32_t n = 0; n < h->count; n++) {
        free(h->batch[n].rows);
        free(h->batch[n].parents);
        free(h->batch[n].moves);
    }
    drop(&h->from);
    drop(&h->to);
    free(h->batch);
    free(h->seen);
    free(h->place);
    free(h->owner);
    free(h->states);
    free(h->aside);
    free(h->leads);
    dpamt_end(h->s);
    free(h);
}

struct search *dpamt_shard_search(struct shard *h) { return h->s; }

/* At least ``wanted`` items in an array (a pointer to the pointer); what was in it is kept.  -1: no memory. */
static int room_of(void *array, int64_t *room, int64_t wanted, size_t size)
{
    void *at;
    if (wanted <= *room)
        return 0;
    int64_t more = wanted + wanted / 4 + 1024;
    memcpy(&at, array, sizeof at); /* of whatever type the pointer is */
    at = realloc(at, (size_t)more * size);
    if (!at)
        return -1;
    memcpy(array, &at, sizeof at);
    *room = more;
    return 0;
}

static int32_t owner_of(const struct shard *h, const uint64_t *row)
{
    const struct tables *t = &h->s->t;
    uint64_t sum = 0;
    for (int32_t n = 0; n < t->slots; n++) {
        int32_t value = field(t, row, n);
        if (value) /* slots come to be while the search runs; 0 is the value at the start */
            sum += mixed((uint64_t)n << 32, (uint64_t)value);
    }
    for (int32_t n = t->slots; n < t->slots + t->threads; n++)
        sum += mixed(1ull << 63, (uint64_t)field(t, row, n));
    sum = mixed(sum, 0x2545f4914f6cdd1dull);
    return (int32_t)(((sum >> 32) * (uint64_t)h->count) >> 32);
}

/* Fields are laid out in another way, as dpamt_settle says. */
int dpamt_shard_lay_out(struct shard *h, const struct tables *before, int32_t words_before)
{
    for (int32_t n = 0; n < h->count; n++)
        h->batch[n].room = 0; /* rows of another width */
    return dpamt_settle(h->s, before, words_before);
}

static int room_in_batch(struct batch *b, int32_t words)
{
    if (b->used < b->room)
        return 0;
    int64_t room = 2 * b->room + 1024;
    uint64_t *rows = realloc(b->rows, (size_t)room * (size_t)words * 8);
    if (rows)
        b->rows = rows;
    uint32_t *parents = realloc(b->parents, (size_t)room * 4);
    if (parents)
        b->parents = parents;
    uint16_t *moves = realloc(b->moves, (size_t)room * 2);
    if (moves)
        b->moves = moves;
    if (!rows || !parents || !moves)
        return -1;
    b->room = room;
    return 0;
}

/* File the rows of a round by their shard, each once.  -1: no memory. */
static int file_rows(struct shard *h)
{
    struct search *s = h->s;
    struct out *o = s->out;
    int32_t words = s->words;
    int64_t size = 4096, row_room = h->row_room;
    while (size < 2 * o->used)
        size *= 2;
    if (room_of(&h->place, &h->row_room, o->used, 4) || room_of(&h->owner, &row_room, o->used, 2))
        return -1;
    if (size > h->seen_room) {
        free(h->seen);
        h->seen = malloc((size_t)size * 4);
        h->seen_room = h->seen ? size : 0;
        if (!h->seen)
            return -1;
    }
    memset(h->seen, 0, (size_t)size * 4);
    for (int64_t i = 0; i < o->used; i++) {
        const uint64_t *row = o->rows + i * words;
        if (i + AHEAD < o->used)
            __builtin_prefetch(h->seen + (o->hashes[i + AHEAD] & (uint64_t)(size - 1)));
        uint64_t at = o->hashes[i] & (uint64_t)(size - 1);
        while (h->seen[at] && !same_row(row, o->rows + (int64_t)(h->seen[at] - 1) * words, words))
            at = (at + 1) & (uint64_t)(size - 1);
        if (h->seen[at]) {
            h->place[i] = h->place[h->seen[at] - 1];
            h->owner[i] = h->owner[h->seen[at] - 1];
            continue;
        }
        h->seen[at] = (uint32_t)i + 1;
        h->owner[i] = (uint16_t)owner_of(h, row);
        struct batch *b = h->batch + h->owner[i];
        if (room_in_batch(b, words))
            return -1;
        h->place[i] = (uint32_t)b->used;
        memcpy(b->rows + b->used * words, row, (size_t)words * 8);
        b->parents[b->used] = o->parents[i];
        b->moves[b->used++] = o->moves[i];
    }
    return 0;
}

static int begin_round(struct shard *h, int64_t most)
{
    h->s->out->used = h->states_used = h->missing_used = 0;
    for (int32_t n = 0; n < h->count; n++)
        h->batch[n].used = 0;
    return room_for_states(h->s->out, most) || room_of(&h->states, &h->state_room, most, 4);
}

/* Something has to be learned before this state can be expanded. */
static void miss(struct shard *h, int64_t state)
{
    uint64_t what = h->s->out->missing;
    for (int64_t n = 0; n < h->missing_used; n++)
        if (h->missing[n] == what)
            return;
    if (h->missing_used < MOST_MISSING) {
        h->missing[h->missing_used] = what;
        h->asked[h->missing_used++] = state;
    }
}

/* Expand at most ``most`` states.  How many states of this depth are left; -1: no memory. */
int64_t dpamt_shard_expand(struct shard *h, int64_t most)
{
    struct search *s = h->s;
    int64_t waiting = h->aside_used, tried = 0, kept = 0;
    if (begin_round(h, most) || room_of(&h->aside, &h->aside_room, waiting + most, 4))
        return -1;
    for (int64_t n = 0; n < most && (tried < waiting || h->next < h->level_end); n++) {
        uint32_t state = tried < waiting ? h->aside[tried++] : (uint32_t)h->next++;
        int why = expand_one(s, state, s->out, h->states_used);
        if (why == NO_MEMORY)
            return -1;
        if (why == DONE)
            h->states[h->states_used++] = state;
        else {
            miss(h, state);
            h->aside[kept++] = state; /* it was tried, so its place is free */
        }
    }
    for (; tried < waiting; tried++)
        h->aside[kept++] = h->aside[tried];
    h->aside_used = kept;
    return file_rows(h) ? -1 : h->aside_used + h->level_end - h->next;
}

static int make_shard_room(struct shard *h, int64_t count)
{
    if (count > PENDING - 2 || make_room(h->s, count))
        return -1;
    return grow(&h->from, h->s->room * 2) || grow(&h->to, h->s->room * 2) ? -1 : 0;
}

static void append_row(struct shard *h, const uint64_t *row, uint32_t parent, uint16_t from,
                       uint16_t move)
{
    struct search *s = h->s;
    int64_t n = s->count++;
    memcpy((uint64_t *)s->rows.at + n * s->words, row, (size_t)s->words * 8);
    ((uint32_t *)s->parents.at)[n] = parent;
    ((uint16_t *)s->moves.at)[n] = move;
    ((uint32_t *)s->onward.at)[n] = (uint32_t)n;
    ((uint16_t *)h->from.at)[n] = from;
    ((uint16_t *)h->to.at)[n] = (uint16_t)h->index;
}

/* Begin with a state, from its fields, if it is of this shard: 1; 0: it is not; -1: no memory. */
int dpamt_shard_first(struct shard *h, const int32_t *values)
{
    uint64_t row[MOST_FIELDS] = {0};
    for (int32_t n = 0; n < h->s->t.slots + h->s->t.threads; n++)
        put_field(&h->s->t, row, n, values[n]);
    if (owner_of(h, row) != h->index)
        return 0;
    if (make_shard_room(h, 1))
        return -1;
    append_row(h, row, 0, (uint16_t)h->index, 0);
    h->level_end = 1;
    return table_again(h->s) ? -1 : 1;
}

/* Look up rows that shard ``from`` has found, and append the new ones.  0; -1: no memory. */
int dpamt_shard_take(struct shard *h, int32_t from, int64_t count, const uint64_t *rows,
                     const uint32_t *parents, const uint16_t *moves, uint32_t *numbers)
{
    struct search *s = h->s;
    struct part *p = s->part;
    int32_t words = s->words;
    if (make_shard_room(h, s->count + count))
        return -1;
    int made = make_tables(s, p->used + count);
    if (made < 0)
        return -1;
    if (made)
        refill(s, 0, 1);
    uint64_t hashes[2 * AHEAD];
    for (int64_t n = 0; n < count + AHEAD; n++) {
        if (n < count) {
            uint64_t hash = hashes[n % (2 * AHEAD)] = row_hash(rows + n * words, words);
            __builtin_prefetch(p->table + (hash & p->mask));
        }
        if (n >= AHEAD / 2 && n - AHEAD / 2 < count) {
            uint32_t near = p->table[hashes[(n - AHEAD / 2) % (2 * AHEAD)] & p->mask];
            if (near)
                __builtin_prefetch(row_of(s, near - 1));
        }
        int64_t k = n - AHEAD;
        if (k < 0)
            continue;
        const uint64_t *row = rows + k * words;
        uint64_t at = hashes[k % (2 * AHEAD)] & p->mask;
        while (p->table[at] && !same_row(row, row_of(s, p->table[at] - 1), words))
            at = (at + 1) & p->mask;
        if (!p->table[at]) {
            append_row(h, row, parents[k], (uint16_t)from, moves[k]);
            p->table[at] = (uint32_t)s->count;
            p->used++;
        }
        numbers[k] = p->table[at] - 1;
    }
    return 0;
}

/* ``numbers``: by shard, those of the rows that were filed for it.  0; -1: no memory. */
int dpamt_shard_settle(struct shard *h, const uint32_t *const *numbers)
{
    struct search *s = h->s;
    struct out *o = s->out;
    int64_t i = 0;
    for (int64_t n = 0; n < h->states_used; n++) {
        uint32_t here = h->states[n], highest = here;
        uint16_t where = (uint16_t)h->index;
        for (uint32_t k = 0; k < o->state_rows[n]; k++, i++) {
            uint32_t number = numbers[h->owner[i]][h->place[i]];
            if (!k || number > highest) {
                highest = number;
                where = h->owner[i];
            }
        }
        ((uint32_t *)s->onward.at)[here] = highest;
        ((uint16_t *)h->to.at)[here] = where;
        s->transitions += o->state_moves[n];
        if (!o->state_ends[n])
            continue;
        if (room_of(&s->ends, &s->end_room, s->end_used + 1, 4))
            return -1;
        s->ends[s->end_used++] = here << 1 | (o->state_ends[n] == 1);
    }
    s->expanded += h->states_used;
    return 0;
}

/* Go to the next depth: the states that came while this one was expanded.  How many these are. */
int64_t dpamt_shard_next(struct shard *h)
{
    h->next = h->level_end;
    h->level_end = h->s->count;
    return h->level_end - h->next;
}

/* The batch for a shard, and the states that ask for something to be learned. */
const struct batch *dpamt_shard_batch(struct shard *h, int32_t shard) { return h->batch + shard; }

int64_t dpamt_shard_asked(struct shard *h, int64_t *states)
{
    memcpy(states, h->asked, (size_t)h->missing_used * sizeof *states);
    return h->missing_used;
}

/* Which states lead to an end.  Asked when all are expanded. */

/* Mark the ends.  0; -1: no memory. */
int dpamt_shard_mark(struct shard *h)
{
    free(h->leads);
    h->leads = calloc((size_t)h->s->count + 1, 1);
    for (int64_t n = 0; h->leads && n < h->s->end_used; n++)
        h->leads[h->s->ends[n] >> 1] = 1;
    return h->leads ? 0 : -1;
}

/* File questions of the states from ``first`` to before ``end`` that are not marked: of their
 * onward state, or of ``all`` that follow.  How many states were marked at once; -1: no memory. */
int64_t dpamt_shard_ask(struct shard *h, int64_t first, int64_t end, int32_t all)
{
    struct search *s = h->s;
    int64_t marked = 0, row_room = h->row_room;
    if (begin_round(h, end - first) || room_of(&h->place, &h->row_room, end - first, 4) ||
        room_of(&h->owner, &row_room, end - first, 2))
        return -1;
    for (int64_t n = end - 1; n >= first; n--) {
        if (h->leads[n])
            continue;
        if (all) {
            int why = expand_one(s, (uint32_t)n, s->out, h->states_used);
            if (why == NO_MEMORY)
                return -1;
            if (why == DONE)
                h->states[h->states_used++] = (uint32_t)n;
            else
                miss(h, n);
            continue;
        }
        uint32_t onward = ((uint32_t *)s->onward.at)[n];
        uint16_t to = ((uint16_t *)h->to.at)[n];
        if (to == h->index) {
            h->leads[n] = h->leads[onward];
            marked += h->leads[n];
            continue;
        }
        struct batch *b = h->batch + to;
        if (room_in_batch(b, s->words))
            return -1;
        h->owner[h->states_used] = to;
        h->place[h->states_used] = (uint32_t)b->used;
        h->states[h->states_used++] = (uint32_t)n;
        b->parents[b->used++] = onward;
    }
    return all && file_rows(h) ? -1 : marked;
}

/* Whether states lead to an end: those of these rows, or, without rows, of these numbers. */
void dpamt_shard_answer(struct shard *h, int64_t count, const uint64_t *rows,
                        const uint32_t *numbers, uint8_t *leads)
{
    for (int64_t n = 0; n < count; n++) {
        int64_t state = numbers[n];
        if (rows) {
            const uint64_t *row = rows + n * h->s->words;
            state = number_of(h->s, row, row_hash(row, h->s->words));
        }
        leads[n] = state >= 0 && h->leads[state];
    }
}

/* ``leads``: by shard, what was answered.  How many states were marked. */
int64_t dpamt_shard_hear(struct shard *h, const uint8_t *const *leads, int32_t all)
{
    int64_t marked = 0, i = 0;
    for (int64_t n = 0; n < h->states_used; n++) {
        uint32_t count = all ? h->s->out->state_rows[n] : 1;
        uint8_t any = 0;
        for (uint32_t k = 0; k < count; k++, i++)
            any |= leads[h->owner[i]][h->place[i]];
        h->leads[h->states[n]] = any;
        marked += any;
    }
    return marked;
}

/* How many states are not marked; the first of them in ``first``, -1: none. */
int64_t dpamt_shard_unmarked(struct shard *h, int64_t *first)
{
    int64_t left = 0;
    *first = -1;
    for (int64_t n = h->s->count - 1; n >= 0; n--)
        if (!h->leads[n])
            left++, *first = n;
    return left;
}

/* Copies of states, so that a shard that is lost can be made again. */

/* The bytes of a column: 0 to 3 as dpamt_column, 4 shards of the parents, 5 of the onward states. */
const char *dpamt_shard_column(struct shard *h, int32_t which, int64_t *bytes_of_one)
{
    *bytes_of_one = which < 4 ? item_bytes(h->s, which) : 2;
    return which < 4 ? column_of(h->s, which)->at : which == 4 ? h->from.at : h->to.at;
}

/* Append states as they were kept: their columns 0 to 5.  0; -1: no memory. */
int dpamt_shard_load(struct shard *h, int64_t count, const void *const *columns)
{
    if (make_shard_room(h, h->s->count + count))
        return -1;
    for (int32_t n = 0; n < 6; n++) {
        int64_t size;
        char *at = (char *)dpamt_shard_column(h, n, &size);
        memcpy(at + h->s->count * size, columns[n], (size_t)(count * size));
    }
    h->s->count += count;
    return 0;
}

/* Where the states from ``first`` on lead, as it was kept after they were expanded. */
void dpamt_shard_onward(struct shard *h, int64_t first, int64_t count, const void *onward,
                        const void *to)
{
    memcpy(h->s->onward.at + first * 4, onward, (size_t)count * 4);
    memcpy(h->to.at + first * 2, to, (size_t)count * 2);
}

/* The states are all there again: find them by their rows, and go on at this depth. */
int dpamt_shard_go_on(struct shard *h, int64_t next, int64_t transitions, const uint32_t *ends,
                      int64_t count)
{
    h->next = next;
    h->level_end = h->s->count;
    h->aside_used = 0;
    return dpamt_go_on(h->s, next, transitions, ends, count) || table_again(h->s) ? -1 : 0;
}
