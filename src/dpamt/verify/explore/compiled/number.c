/* Passes 2 and 3 of a chunk: look states up, and give new ones their numbers. */

/* Tables in which ``most`` states fit for each part; 1: they are new, and empty (refill).  -1: no
 * memory. */
static int make_tables(struct search *s, int64_t most)
{
    uint64_t size = s->part[0].mask + 1;
    while (size * 7 / 10 < (uint64_t)most)
        size *= 2;
    if (size == s->part[0].mask + 1)
        return 0;
    for (int32_t n = 0; n < s->parts; n++) {
        struct part *p = s->part + n;
        free(p->table);
        p->table = calloc(size, 4);
        if (!p->table)
            return -1;
        p->mask = size - 1;
        p->used = 0;
    }
    return 1;
}

/* Put states into new tables: share ``share`` of ``shares`` of the states, whatever their part.
 * Others do it with their shares at the same time. */
static void refill(struct search *s, int32_t share, int32_t shares)
{
    int64_t first = s->count * share / shares, end = s->count * (share + 1) / shares;
    uint64_t hashes[AHEAD];
    int64_t added[MOST_OUTS] = {0};
    for (int64_t state = first; state < end + AHEAD; state++) {
        if (state >= first + AHEAD) {
            uint64_t hash = hashes[state % AHEAD];
            int part = part_of(s, hash);
            const struct part *p = s->part + part;
            uint64_t at = hash & p->mask;
            uint32_t code = (uint32_t)(state - AHEAD) + 1, none = 0;
            while (!__atomic_compare_exchange_n(p->table + at, &none, code, 0, __ATOMIC_RELAXED,
                                                __ATOMIC_RELAXED)) {
                at = (at + 1) & p->mask;
                none = 0;
            }
            added[part]++;
        }
        if (state < end) {
            uint64_t hash = hashes[state % AHEAD] = row_hash(row_of(s, state), s->words);
            const struct part *p = s->part + part_of(s, hash);
            __builtin_prefetch(p->table + (hash & p->mask), 1);
        }
    }
    for (int32_t part = 0; part < s->parts; part++)
        __atomic_fetch_add(&s->part[part].used, added[part], __ATOMIC_RELAXED);
}

/* Room for a chunk in every part of the table.  ``segments``: how many outs hold the chunk.  1: the
 * tables have to be refilled before anything else; -1: no memory. */
static int make_room_in_tables(struct search *s, int32_t segments)
{
    int64_t most = 0;
    for (int32_t part = 0; part < s->parts; part++) {
        int64_t wanted = s->part[part].used; /* all of the chunk may be new */
        for (int32_t n = 0; n < segments; n++)
            wanted += s->out[n].picked_used[part];
        most = wanted > most ? wanted : most;
    }
    return make_tables(s, most);
}

static const uint64_t *pending_row(const struct search *s, uint32_t code)
{
    const struct out *o = s->out + ((code & ~PENDING) >> SEGMENT_SHIFT);
    return o->rows + (int64_t)(code & INDEX_MASK) * s->words;
}

/* Pass 2: find the states of a chunk in one part of the table.  Of each row: its state + 1; PENDING
 * and where the row stands that is the same and new; for a new one, itself. */
static void look_up(struct search *s, int32_t part, int32_t segments)
{
    struct part *p = s->part + part;
    /* Others write what lies beside ``p`` and the outs: what is needed is kept apart. */
    uint32_t *table = p->table;
    uint64_t mask = p->mask;
    int64_t used = p->used;
    int32_t words = s->words;
    for (int32_t n = 0; n < segments; n++) {
        struct out *o = s->out + n;
        const uint64_t *hashes = o->hashes, *rows = o->rows;
        uint32_t *targets = o->targets, *places = o->places;
        const uint32_t *mine = o->picked[part];
        int64_t count = o->picked_used[part], before = used;
        for (int64_t k = 0; k < count; k++) {
            if (k + AHEAD < count)
                __builtin_prefetch(table + (hashes[mine[k + AHEAD]] & mask));
            if (k + AHEAD / 2 < count) {
                uint32_t near = table[hashes[mine[k + AHEAD / 2]] & mask];
                if (near && !(near & PENDING))
                    __builtin_prefetch(row_of(s, near - 1));
            }
            int64_t i = mine[k];
            const uint64_t *row = rows + i * words;
            uint64_t at = hashes[i] & mask;
            for (;; at = (at + 1) & mask) {
                uint32_t found = table[at];
                if (!found) {
                    table[at] = targets[i] = PENDING | (uint32_t)n << SEGMENT_SHIFT | (uint32_t)i;
                    used++;
                    places[i] = (uint32_t)at;
                    break;
                }
                const uint64_t *there =
                    found & PENDING ? pending_row(s, found) : row_of(s, found - 1);
                if (same_row(row, there, words)) {
                    targets[i] = found;
                    break;
                }
            }
        }
        o->fresh[part] = used - before;
    }
    p->used = used;
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
 * ``most``.  Three steps, each after all threads have done the one before:
 *
 *   commit   one thread decides where the numbers of each segment begin, and makes room;
 *   number   for each segment, its new states get their numbers and are appended;
 *   onward   for each segment, the states that were expanded get their edge to the highest number.
 *
 * Returns how many segments take part; -1: no memory. */
static int32_t commit(struct search *s, int32_t segments, int64_t most)
{
    int64_t count = s->count;
    int32_t n = 0, stopped = 0;
    for (; n < segments && !stopped; n++) {
        struct out *o = s->out + n;
        int64_t fresh = 0;
        for (int32_t part = 0; part < s->parts; part++)
            fresh += o->fresh[part];
        o->base = count;
        if (count + fresh > most) { /* up to and with the state with which there are too many */
            int64_t state = 0, i = 0;
            for (fresh = 0; state < o->done && count + fresh <= most; state++)
                for (uint32_t k = 0; k < o->state_rows[state]; k++, i++)
                    fresh += o->targets[i] ==
                             (PENDING | (uint32_t)n << SEGMENT_SHIFT | (uint32_t)i);
            o->done = state;
            stopped = 1;
        }
        count += fresh;
        stopped |= o->stopped != DONE;
    }
    if (make_room(s, count))
        return -1;
    for (int32_t k = 0; k < n; k++) {
        const struct out *o = s->out + k;
        for (int64_t state = 0; state < o->done; state++) {
            s->transitions += o->state_moves[state];
            if (!o->state_ends[state])
                continue;
            if (s->end_used == s->end_room) {
                s->end_room = 2 * s->end_room + 1024;
                s->ends = realloc(s->ends, (size_t)s->end_room * 4);
                if (!s->ends)
                    return -1;
            }
            s->ends[s->end_used++] =
                (uint32_t)(o->first + state) << 1 | (o->state_ends[state] == 1);
        }
        if (o->done)
            s->expanded = o->first + o->done;
    }
    s->count = count;
    return n;
}

/* Pass 3, number: for one segment. */
static void number(struct search *s, int32_t n)
{
    struct out *o = s->out + n;
    uint64_t *rows = (uint64_t *)s->rows.at;
    uint32_t *parents = (uint32_t *)s->parents.at, *edges = (uint32_t *)s->onward.at;
    uint16_t *moves = (uint16_t *)s->moves.at;
    int64_t next = o->base, i = 0;
    int32_t words = s->words;
    for (int64_t state = 0; state < o->done; state++)
        for (uint32_t k = 0; k < o->state_rows[state]; k++, i++) {
            if (o->targets[i] != (PENDING | (uint32_t)n << SEGMENT_SHIFT | (uint32_t)i))
                continue;
            for (int32_t word = 0; word < words; word++)
                rows[next * words + word] = o->rows[i * words + word];
            parents[next] = o->parents[i];
            moves[next] = o->moves[i];
            edges[next] = (uint32_t)next;
            s->part[part_of(s, o->hashes[i])].table[o->places[i]] = (uint32_t)next + 1;
            o->targets[i] = (uint32_t)++next;
        }
}

/* Pass 3, onward: for one segment. */
static void onward(struct search *s, int32_t n)
{
    const struct out *o = s->out + n;
    uint32_t *edges = (uint32_t *)s->onward.at;
    int64_t i = 0;
    for (int64_t state = 0; state < o->done; state++) {
        uint32_t highest = 0;
        for (uint32_t k = 0; k < o->state_rows[state]; k++, i++) {
            uint32_t code = o->targets[i];
            if (code & PENDING) /* the same row came before, and has its number now */
                code = s->out[(code & ~PENDING) >> SEGMENT_SHIFT].targets[code & INDEX_MASK];
            highest = code > highest ? code : highest;
        }
        if (highest)
            edges[o->first + state] = highest - 1;
    }
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
