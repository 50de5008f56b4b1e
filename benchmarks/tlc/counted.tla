------------------------------- MODULE counted -------------------------------
(* The design v6 with its threads counted, not listed: the same steps and places as
   ../spin/counted.pml, for TLC.  Its threads are interchangeable, so this is the exact quotient by
   symmetry, done by hand.  One region.
   Source: [PATCH v6 00/11] Dynamic PAMT (2026-05-25). *)
EXTENDS Integers, TLC
CONSTANT N
VARIABLES at, count, lock, pair, used, pairs, taken
shared == <<count, lock, pair, used, pairs, taken>>
vars == <<at, shared>>

Go(p, q) == at[p] > 0 /\ at' = [at EXCEPT ![p] = @ - 1, ![q] = @ + 1]

Init == /\ at = [p \in 0..23 |-> IF p = 0 THEN N ELSE 0]
        /\ count = 0 /\ lock = FALSE /\ pair = FALSE /\ used = 0 /\ pairs = 0 /\ taken = 0

(* One action for each kind of step, so that UNCHANGED is written once for each. *)
Count(p, q, n) == Go(p, q) /\ count' = n /\ UNCHANGED <<lock, pair, used, pairs, taken>>
Look(p, q)     == Go(p, q) /\ UNCHANGED shared
Lock(p, q)     == ~lock /\ Go(p, q) /\ lock' = TRUE /\ UNCHANGED <<count, pair, used, pairs, taken>>
Unlock(p, q)   == Go(p, q) /\ lock' = FALSE /\ UNCHANGED <<count, pair, used, pairs, taken>>
Pair(p, q, is) == Go(p, q) /\ pair' = is /\ UNCHANGED <<count, lock, used, pairs, taken>>
Used(p, q, n)  == Go(p, q) /\ used' = n /\ UNCHANGED <<count, lock, pair, pairs, taken>>
Pairs(p, q, n) == Go(p, q) /\ pairs' = n /\ UNCHANGED <<count, lock, pair, used, taken>>
Taken(p, q, n) == Go(p, q) /\ taken' = n /\ UNCHANGED <<count, lock, pair, used, pairs>>

Next == \* tdx_pamt_get
        \/ count > 0 /\ Count(0, 11, count + 1)
        \/ count = 0 /\ Look(0, 1)
        \/ Taken(1, 2, taken + 1)
        \/ Taken(2, 3, taken + 1)
        \/ Lock(3, 4)
        \/ count > 0 /\ Look(4, 5)
        \/ count = 0 /\ Look(4, 6)
        \/ Count(5, 8, count + 1)
        \/ at[6] > 0 /\ Assert(~pair, "PAMT.ADD of a pair that is there") /\ Pair(6, 7, TRUE)
        \/ Pairs(7, 23, pairs + 1)
        \/ Count(23, 22, 1)
        \/ Unlock(22, 11)
        \/ Unlock(8, 9)
        \/ Taken(9, 10, taken - 1)
        \/ Taken(10, 11, taken - 1)
        \* MEM.PAGE.AUG, MEM.PAGE.REMOVE
        \/ at[11] > 0 /\ Assert(pair, "no pair") /\ Used(11, 12, used + 1)
        \/ at[12] > 0 /\ Assert(pair /\ used > 0, "not in use") /\ Used(12, 13, used - 1)
        \* tdx_pamt_put: atomic_dec_and_lock
        \/ count # 1 /\ Count(13, 21, count - 1)
        \/ count = 1 /\ Look(13, 14)
        \/ Lock(14, 15)
        \/ count > 1 /\ Count(15, 16, count - 1)
        \/ count = 1 /\ Count(15, 17, count - 1)
        \/ Unlock(16, 21)
        \/ at[17] > 0 /\ Assert(pair /\ used = 0, "PAMT.REMOVE in use") /\ Pair(17, 18, FALSE)
        \/ Pairs(18, 19, pairs - 1)
        \/ Unlock(19, 20)
        \/ Taken(20, 21, taken - 2)

Spec == Init /\ [][Next]_vars

GivenBack == at[21] = N => count = 0 /\ ~pair /\ used = 0 /\ pairs = 0 /\ taken = 0
==============================================================================
