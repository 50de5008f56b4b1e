/* The design v6 of refcount.pml with its threads counted, not listed: how many stand at each place.
 * One region.  Its threads are interchangeable, so this is the exact quotient by symmetry, done by
 * hand; local variables are in the places, and dead ones are nowhere.  One process, so nothing is
 * left for partial-order reduction.  The same steps as refcount.pml.
 * Source: [PATCH v6 00/11] Dynamic PAMT (2026-05-25). */
#ifndef N
#define N 3
#endif
#define PLACES 24

byte at[PLACES];
byte count;
bit lock;
bit pair;
byte used;
byte pairs;
short taken;

#define FROM(p) at[p] > 0
#define GO(p, q) at[p]--; at[q]++

active proctype threads()
{
    at[0] = N;
    do
    /* tdx_pamt_get */
    :: d_step { FROM(0) && count > 0 -> count++; GO(0, 11) }
    :: d_step { FROM(0) && count == 0 -> GO(0, 1) }
    :: d_step { FROM(1) -> taken++; GO(1, 2) }
    :: d_step { FROM(2) -> taken++; GO(2, 3) }
    :: d_step { FROM(3) && !lock -> lock = 1; GO(3, 4) }
    :: d_step { FROM(4) && count > 0 -> GO(4, 5) }
    :: d_step { FROM(4) && count == 0 -> GO(4, 6) }
    :: d_step { FROM(5) -> count++; GO(5, 8) }
    :: d_step { FROM(6) -> assert(!pair); pair = 1; GO(6, 7) }       /* PAMT.ADD */
    :: d_step { FROM(7) -> pairs++; GO(7, 23) }
    :: d_step { FROM(23) -> count = 1; GO(23, 22) }
    :: d_step { FROM(22) -> lock = 0; GO(22, 11) }
    :: d_step { FROM(8) -> lock = 0; GO(8, 9) }
    :: d_step { FROM(9) -> taken--; GO(9, 10) }
    :: d_step { FROM(10) -> taken--; GO(10, 11) }
    :: d_step { FROM(11) -> assert(pair); used++; GO(11, 12) }       /* MEM.PAGE.AUG */
    :: d_step { FROM(12) -> assert(pair && used > 0); used--; GO(12, 13) }
    /* tdx_pamt_put: atomic_dec_and_lock */
    :: d_step { FROM(13) && count != 1 -> count--; GO(13, 21) }
    :: d_step { FROM(13) && count == 1 -> GO(13, 14) }
    :: d_step { FROM(14) && !lock -> lock = 1; GO(14, 15) }
    :: d_step { FROM(15) && count > 1 -> count--; GO(15, 16) }
    :: d_step { FROM(15) && count == 1 -> count--; GO(15, 17) }
    :: d_step { FROM(16) -> lock = 0; GO(16, 21) }
    :: d_step { FROM(17) -> assert(pair && used == 0); pair = 0; GO(17, 18) }
    :: d_step { FROM(18) -> pairs--; GO(18, 19) }
    :: d_step { FROM(19) -> lock = 0; GO(19, 20) }
    :: d_step { FROM(20) -> taken = taken - 2; GO(20, 21) }
    :: at[21] == N -> break
    od;
    assert(count == 0 && !pair && used == 0 && pairs == 0 && taken == 0)
}
