/* Passes 2 and 3 of a chunk: look states up, and give new ones their numbers. */
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
