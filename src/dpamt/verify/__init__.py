"""Every interleaving of the code that runs: threads as automata learned from it, and the search.

A thread is the host's and the module's own functions.  It is run from its start with the results of
its earlier steps fed back to it; at the first step without one it is stopped, and the place where
it stands (code positions and live locals, :mod:`dpamt.verify.learn.control_point`) is a node of its
automaton (:mod:`dpamt.verify.learn.automaton`).  The search (:mod:`dpamt.verify.explore.search`)
goes over the values of the shared words and the node of each thread, and asks for a new node only
when an edge is first taken.

Rooms, each importing only those before it: ``learn`` (automata), ``programs`` (what is verified),
``properties``, ``explore`` (the search), ``evidence`` (counterexamples, certificates), ``cluster``
(a search over processes), ``races``.  ``asked`` and ``verdict`` go from a question to its answer.
"""
