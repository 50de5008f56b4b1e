/* The optimised refcount design (v6), by hand, for comparison with `dpamt verify v6`.
 * N threads in REGIONS regions, thread i in region i % REGIONS: get, use, put.
 * Each step is one that the functions of host/designs/v6.py, host/core/{atomic,pairs,page_cache}.py
 * make on a shared word, or a SEAMCALL; local variables are those that the functions keep.
 * -DLEAN: what dpamt's reductions do for free, done by hand: a local variable is 0 once nobody reads
 * it again, and steps on counters that nobody reads go with the step before.
 * Source: [PATCH v6 00/11] Dynamic PAMT (2026-05-25). */
#ifndef N
#define N 3
#endif
#ifndef REGIONS
#define REGIONS 1
#endif

#ifdef LEAN
#define GO_ON atomic {
#define AND_SO }
#define FORGET seen = 0; failed = 0;
#else
#define GO_ON
#define AND_SO
#define FORGET
#endif

byte count[REGIONS];
bit lock;
bit pair[REGIONS];
byte used[REGIONS];
byte pairs;     /* the host's counter of installed pairs */
short taken;    /* pages taken from the allocator */

proctype user(byte r)
{
    byte seen;
    bit failed;

    /* tdx_pamt_get */
    atomic { if :: count[r] > 0 -> count[r]++; goto use :: else -> skip fi };
    GO_ON
    taken++;                                        /* alloc_page, first */
    taken++;                                        /* alloc_page, second */
    AND_SO;
    atomic { lock == 0 -> lock = 1 };
    seen = count[r];
    if
    :: seen > 0 -> count[r]++
    :: else ->
        atomic { failed = pair[r]; assert(!failed); pair[r] = 1 };   /* PAMT.ADD */
        GO_ON
        pairs++;
        count[r] = 1
        AND_SO
    fi;
    lock = 0;
    if
    :: seen > 0 -> GO_ON taken--; taken--; FORGET AND_SO    /* free_page, twice */
    :: else -> skip
    fi;
use:
    atomic { assert(pair[r]); used[r]++ };          /* MEM.PAGE.AUG */
    atomic { assert(pair[r] && used[r] > 0); used[r]-- };   /* MEM.PAGE.REMOVE */
    /* tdx_pamt_put: atomic_dec_and_lock */
    atomic { if :: count[r] != 1 -> count[r]--; goto done :: else -> skip fi };
    atomic { lock == 0 -> lock = 1 };
    atomic { count[r]--; seen = count[r] };
    if
    :: seen == 0 ->
        atomic { assert(pair[r] && used[r] == 0); pair[r] = 0 };     /* PAMT.REMOVE */
        GO_ON
        pairs--;
        lock = 0;
        taken--;                                    /* free_page, twice */
        taken--
        AND_SO
    :: else -> GO_ON lock = 0; FORGET AND_SO
    fi;
done:
    skip
}

init
{
    byte i = 0;
    atomic {
        do
        :: i < N -> run user(i % REGIONS); i++
        :: else -> break
        od
    };
    _nr_pr == 1;
    i = 0;
    do
    :: i < REGIONS -> assert(count[i] == 0 && !pair[i] && used[i] == 0); i++
    :: else -> break
    od;
    assert(pairs == 0 && taken == 0)
}
