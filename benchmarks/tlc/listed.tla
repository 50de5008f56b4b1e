------------------------------- MODULE listed --------------------------------
(* The design v6 with its threads listed: the same steps and places as counted.tla, each thread at a
   place of its own.  Permutations of threads are given to TLC as a symmetry.  One region.
   Source: [PATCH v6 00/11] Dynamic PAMT (2026-05-25). *)
EXTENDS Integers, TLC
CONSTANT Threads
VARIABLES at, count, lock, pair, used, pairs, taken
shared == <<count, lock, pair, used, pairs, taken>>
vars == <<at, shared>>

Symmetry == Permutations(Threads)

Go(t, p, q) == at[t] = p /\ at' = [at EXCEPT ![t] = q]

Init == /\ at = [t \in Threads |-> 0]
        /\ count = 0 /\ lock = FALSE /\ pair = FALSE /\ used = 0 /\ pairs = 0 /\ taken = 0

(* One action for each kind of step, so that UNCHANGED is written once for each. *)
Count(t, p, q, n) == Go(t, p, q) /\ count' = n /\ UNCHANGED <<lock, pair, used, pairs, taken>>
Look(t, p, q)     == Go(t, p, q) /\ UNCHANGED shared
Lock(t, p, q)     == ~lock /\ Go(t, p, q) /\ lock' = TRUE /\ UNCHANGED <<count, pair, used, pairs, taken>>
Unlock(t, p, q)   == Go(t, p, q) /\ lock' = FALSE /\ UNCHANGED <<count, pair, used, pairs, taken>>
Pair(t, p, q, is) == Go(t, p, q) /\ pair' = is /\ UNCHANGED <<count, lock, used, pairs, taken>>
Used(t, p, q, n)  == Go(t, p, q) /\ used' = n /\ UNCHANGED <<count, lock, pair, pairs, taken>>
Pairs(t, p, q, n) == Go(t, p, q) /\ pairs' = n /\ UNCHANGED <<count, lock, pair, used, taken>>
Taken(t, p, q, n) == Go(t, p, q) /\ taken' = n /\ UNCHANGED <<count, lock, pair, used, pairs>>

Step(t) ==
        \* tdx_pamt_get
        \/ count > 0 /\ Count(t, 0, 11, count + 1)
        \/ count = 0 /\ Look(t, 0, 1)
        \/ Taken(t, 1, 2, taken + 1)
        \/ Taken(t, 2, 3, taken + 1)
        \/ Lock(t, 3, 4)
        \/ count > 0 /\ Look(t, 4, 5)
        \/ count = 0 /\ Look(t, 4, 6)
        \/ Count(t, 5, 8, count + 1)
        \/ at[t] = 6 /\ Assert(~pair, "PAMT.ADD of a pair that is there") /\ Pair(t, 6, 7, TRUE)
        \/ Pairs(t, 7, 23, pairs + 1)
        \/ Count(t, 23, 22, 1)
        \/ Unlock(t, 22, 11)
        \/ Unlock(t, 8, 9)
        \/ Taken(t, 9, 10, taken - 1)
        \/ Taken(t, 10, 11, taken - 1)
        \* MEM.PAGE.AUG, MEM.PAGE.REMOVE
        \/ at[t] = 11 /\ Assert(pair, "no pair") /\ Used(t, 11, 12, used + 1)
        \/ at[t] = 12 /\ Assert(pair /\ used > 0, "not in use") /\ Used(t, 12, 13, used - 1)
        \* tdx_pamt_put: atomic_dec_and_lock
        \/ count # 1 /\ Count(t, 13, 21, count - 1)
        \/ count = 1 /\ Look(t, 13, 14)
        \/ Lock(t, 14, 15)
        \/ count > 1 /\ Count(t, 15, 16, count - 1)
        \/ count = 1 /\ Count(t, 15, 17, count - 1)
        \/ Unlock(t, 16, 21)
        \/ at[t] = 17 /\ Assert(pair /\ used = 0, "PAMT.REMOVE in use") /\ Pair(t, 17, 18, FALSE)
        \/ Pairs(t, 18, 19, pairs - 1)
        \/ Unlock(t, 19, 20)
        \/ Taken(t, 20, 21, taken - 2)

Next == \E t \in Threads : Step(t)

Spec == Init /\ [][Next]_vars

GivenBack == (\A t \in Threads : at[t] = 21) => count = 0 /\ ~pair /\ used = 0 /\ pairs = 0 /\ taken = 0
==============================================================================
