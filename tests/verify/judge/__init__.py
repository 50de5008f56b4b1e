"""A judge that spares nothing: a plain search to hold the verifier against.

Theory
------
A verdict of :mod:`dpamt.verify` rests on reductions: control points that merge histories, blocks of
steps that nobody notices, words that one thread alone touches, words under a lock, counters,
threads that are interchangeable.  The judge has none of them:

- a thread is the history of the results that its steps had, and nothing else.  Two histories are
  one only if they are equal;
- a state is the value of every word of the machine that was touched and the history of each thread;
- a step is done by the machine's own word;
- every thread is a class of its own, with its own CPU, package, 4K page, guest page and pair pages;
- CPUs may be switched before every step, but for what the granularity makes one step.

A history only ever grows, so the graph of states has no circle: it is finite unless a thread can go
on for ever.  Histories are cut at :data:`~tests.verify.judge.histories.LONGEST` results, and the
judge says so; a state from which every way is cut is what the verifier calls a livelock.

A run of a thread costs as much as the whole model.  So a history is learned once and serves all
granularities, and a thread that is run goes on alone, its steps done on the words of that moment,
until it ends or waits: everything on the way is a history that the search will come to, since it is
what happens when nobody else is given a CPU.  Words are kept by number: the effect of a step on all
words is worked out once.
"""
