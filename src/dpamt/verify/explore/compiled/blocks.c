/* The fields of a row, and the blocks of a thread by what they read. */
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

static int same_key(const int32_t *a, const int32_t *b, int32_t length)
{
    for (int32_t n = 0; n < length; n++)
        if (a[n] != b[n])
            return 0;
    return 1;
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
            same_key(s->keys + e->key, key, length))
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
    if (length)
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
