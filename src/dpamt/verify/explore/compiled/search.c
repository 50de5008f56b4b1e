/*
 * The inner loop of a search, compiled: expand, sort, look up, append.
 *
 * Theory.  Once the blocks of every thread are learned, a state is a row of small integers: the
 * values of the shared slots by number, and the sorted locals of each class of threads.  What a
 * thread may do next depends on its local and on the slots that its blocks read, so it is one look
 * into a table.  The code here knows nothing of the model.  It runs over states in the order in
 * which they were found, and stops before the first state that needs something that it was not
 * given: Python learns it (explore/blocks.py), adds it to the tables, and calls again.  So blocks
 * are learned in the same order as in the search in Python, and states, numbers and edges are the
 * same.  dpamt/verify/explore/compiled/engine.py is the only caller.
 *
 * A state is kept exactly, in 64-bit words, each field in as many bits as its values need.  Threads
 * share the work in three passes over a chunk of states, and the order of states does not depend
 * on how many threads there are:
 *
 *   expand   by segments of the chunk: the states that follow are written down;
 *   look_up  by parts of the hash values: those states are found in the part's own table;
 *   commit   by segments: new states get their numbers, in order.
 *
 * Whoever is free takes the next segment or part, and all meet after each pass (team.c).
 * Of edges only the one to the highest number is kept (``onward``): it decides nearly always
 * whether a state leads to an end.  Where it does not, the state is expanded once more.
 */
#include "state.h"
#include "columns.c"
#include "blocks.c"
#include "expand.c"
#include "number.c"
#include "kept.c"
#include "team.c"
