/* Memory: arrays that grow, in memory or in files; a search begins and ends. */
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
    if (c->bytes)
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

/* Begin a search that ``threads`` threads will share.  0: no memory. */
struct search *dpamt_begin(int32_t threads)
{
    struct search *s = calloc(1, sizeof *s);
    if (!s)
        return 0;
    s->rows.file = s->parents.file = s->moves.file = s->onward.file = -1;
    int32_t parts = s->parts = threads;
    /* One for each segment of a chunk; the caller says how many there are (dpamt_begin_chunk). */
    s->outs = threads == 1 ? 1 : MOST_OUTS;
    s->part = calloc((size_t)parts, sizeof *s->part);
    s->out = calloc((size_t)s->outs, sizeof *s->out);
    for (int32_t n = 0; s->out && n < s->outs; n++) {
        s->out[n].picked = calloc((size_t)parts, sizeof *s->out[n].picked);
        s->out[n].picked_used = calloc((size_t)parts, sizeof *s->out[n].picked_used);
        s->out[n].fresh = calloc((size_t)parts, sizeof *s->out[n].fresh);
        if (!s->out[n].picked || !s->out[n].picked_used || !s->out[n].fresh)
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
    if (!s->part || !s->out || !s->entries || !s->entry_room ||
        pthread_mutex_init(&s->team.lock, 0) || pthread_cond_init(&s->team.all_here, 0))
        return 0; /* the process has no memory left, and ends */
    return s;
}

void dpamt_end(struct search *s)
{
    drop(&s->rows);
    drop(&s->parents);
    drop(&s->moves);
    drop(&s->onward);
    for (int32_t n = 0; n < s->parts; n++)
        free(s->part[n].table);
    for (int32_t n = 0; n < s->outs; n++) {
        struct out *o = s->out + n;
        free(o->rows);
        free(o->hashes);
        free(o->parents);
        free(o->targets);
        free(o->places);
        for (int32_t k = 0; k < s->parts; k++)
            free(o->picked[k]);
        free(o->picked);
        free(o->picked_used);
        free(o->fresh);
        free(o->moves);
        free(o->state_rows);
        free(o->state_moves);
        free(o->state_ends);
    }
    pthread_cond_destroy(&s->team.all_here);
    pthread_mutex_destroy(&s->team.lock);
    free(s->part);
    free(s->out);
    free(s->entries);
    free(s->keys);
    free(s->ends);
    free(s);
}

struct tables *dpamt_tables(struct search *s) { return &s->t; }
