"""Numbers and layouts that Intel and Linux fixed; no behaviour.

One table each: leaves, statuses, operand ids, page types and PAMT entries, states, TDMR_INFO,
metadata fields, TD_PARAMS, exits.  Everything that shows or parses them reads the table here.
"""
