"""The search over states: blocks between places to switch CPUs, states, judging, edges."""
