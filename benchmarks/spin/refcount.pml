/* The optimised refcount design (v6), by hand, for comparison with `dpamt verify v6`.
 * N threads in REGIONS regions, thread i in region i % REGIONS: get, use, put.
 * Each step is one that the functions of host/designs/v6.py, host/core/{atomic,pairs,page_cache}.py
 * make on a shared word, or a SEAMCALL; local variables are those that the functions keep.
 * Source: [PATCH v6 00/11] Dynamic PAMT (2026-05-25). */
#ifndef N
#define N 3
#endif
#ifndef REGIONS
#define REGIONS 1
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
    taken++;                                        /* alloc_page, first */
    taken++;                                        /* alloc_page, second */
    atomic { lock == 0 -> lock = 1 };
    seen = count[r];
    if
    :: seen > 0 -> count[r]++
    :: else ->
        atomic { failed = pair[r]; assert(!failed); pair[r] = 1 };   /* PAMT.ADD */
        pairs++;
        count[r] = 1
    fi;
    lock = 0;
    if
    :: seen > 0 -> taken--; taken--                 /* free_page, twice */
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
        pairs--;
        lock = 0;
        taken--;                                    /* free_page, twice */
        taken--
    :: else -> lock = 0
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
