/* Pass 1 of a chunk: expand states, sort, pack. */
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

/* Pass 1 of a chunk, for one segment: expand states from ``first`` to before ``end``.  Why it
 * stopped. */
static int expand(struct search *s, int32_t segment, int64_t first, int64_t end)
{
    struct out *o = s->out + segment;
    o->used = 0;
    o->first = first;
    o->done = 0;
    o->stopped = room_for_states(o, end - first) ? NO_MEMORY : DONE;
    while (!o->stopped && first + o->done < end) {
        o->stopped = expand_one(s, (uint32_t)(first + o->done), o, o->done);
        o->done += !o->stopped;
    }
    deal(s, o);
    return (int)o->stopped;
}
