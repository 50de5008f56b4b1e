"""A property of one's own, for `dpamt verify --property` (docs/verify.md)."""


def backed(view):
    """Every region with a count has its pair, and the other way round."""
    return view.counts.keys() == view.pairs.keys()
