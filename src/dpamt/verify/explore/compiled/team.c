/* One chunk of a search, by one thread or by several that meet after each pass. */
/* Wait until every thread of the chunk is here.  The last one does ``alone``, if there is
 * something to do, before they go on. */
static void meet(struct search *s, void (*alone)(struct search *))
{
    struct team *w = &s->team;
    pthread_mutex_lock(&w->lock);
    int64_t round = w->round;
    if (++w->here == w->threads) {
        if (alone)
            alone(s);
        w->next = 0;
        w->here = 0;
        w->round++;
        pthread_cond_broadcast(&w->all_here);
    } else {
        while (w->round == round)
            pthread_cond_wait(&w->all_here, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
}

/* The next of the things that this pass has to do: whoever is free takes it. */
static int32_t next_of(struct search *s)
{
    return __atomic_fetch_add(&s->team.next, 1, __ATOMIC_RELAXED);
}

static void expanded(struct search *s)
{
    struct team *w = &s->team;
    int32_t n = 0;
    while (n < w->segments && w->stopped == DONE)
        w->stopped = (int32_t)s->out[n++].stopped;
    w->segments = n; /* what others found after the place where one stopped is not used */
    w->made = make_room_in_tables(s, n);
}

static void looked_up(struct search *s)
{
    struct team *w = &s->team;
    w->segments = commit(s, w->segments, w->most);
}

/* Say what the next chunk is: states from ``first`` to before ``end``, in ``segments`` parts, by
 * ``threads`` threads, each of which has to call dpamt_chunk.  Of the segments the first that stops
 * ends the chunk; no state is numbered after there are more than ``most``. */
void dpamt_begin_chunk(struct search *s, int64_t first, int64_t end, int32_t segments,
                       int32_t threads, int64_t most)
{
    struct team *w = &s->team;
    w->first = first;
    w->end = end;
    w->segments = segments;
    w->threads = threads;
    w->most = most;
    w->here = w->next = w->made = 0;
    w->stopped = DONE;
    w->first_stopped = segments;
}

/* One thread's share of the chunk; it returns when all have done theirs.  DONE; UNKNOWN: the state
 * that is expanded next needs something that was not given; NO_MEMORY. */
int32_t dpamt_chunk(struct search *s)
{
    struct team *w = &s->team;
    int32_t segments = w->segments;
    int64_t each = (w->end - w->first + segments - 1) / segments;
    for (int32_t n; (n = next_of(s)) < segments;) {
        int64_t first = w->first + n * each, end = first + each < w->end ? first + each : w->end;
        if (n > __atomic_load_n(&w->first_stopped, __ATOMIC_RELAXED))
            continue; /* nobody will use it */
        if (expand(s, n, first < end ? first : end, end) != DONE)
            __atomic_store_n(&w->first_stopped, n, __ATOMIC_RELAXED);
    }
    meet(s, expanded);
    if (w->made < 0)
        return NO_MEMORY;
    if (w->made) {
        for (int32_t n; (n = next_of(s)) < w->threads;)
            refill(s, n, w->threads);
        meet(s, 0);
    }
    for (int32_t n; (n = next_of(s)) < s->parts;)
        look_up(s, n, w->segments);
    meet(s, looked_up);
    if (w->segments < 0)
        return NO_MEMORY;
    for (int32_t n; (n = next_of(s)) < w->segments;)
        number(s, n);
    meet(s, 0);
    for (int32_t n; (n = next_of(s)) < w->segments;)
        onward(s, n);
    return w->stopped;
}
