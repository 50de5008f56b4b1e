/* States taken over from elsewhere, laid out in another way, asked for and kept. */
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
    s->part[0].mask = 0; /* of another size in any case */
    if (make_tables(s, s->count / s->parts + s->count / 8 + 4096) < 0)
        return -1;
    refill(s, 0, 1);
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
            int32_t values[MOST_FIELDS], slots = before->slots;
            for (int32_t k = slots; k < s->t.slots; k++)
                values[k] = 0; /* a new slot */
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
    for (int32_t n = 0; n < s->outs; n++)
        s->out[n].room = 0; /* rows of another width */
    return table_again(s);
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
    if (count)
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
