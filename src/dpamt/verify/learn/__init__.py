"""How a thread becomes an automaton: from its functions, with what a step does to a word."""
