"""What `dpamt verify --check` says: trial by trial whether it is as the certificate says."""

from collections.abc import Sequence
from textwrap import wrap

from dpamt.report.width import width
from dpamt.verify.evidence.certificate import PYTHON, Tried


def design_lines(
    design: str,
    left_out: Sequence[str],
    tried: Sequence[Tried],
    first: Sequence[str],
    said: Sequence[Sequence[str]],
) -> str:
    """One design; ``first`` and ``said`` are the differences of the whole and of each trial.

    Whatever is shown was worked out now, or is a difference.
    """
    lines = wrap(f"{design}, {_how_much(left_out, tried)}", width(), subsequent_indent="  ")
    lines += _indented(first)
    for one, wrong in zip(tried, said, strict=True):
        verdict = one.verdict
        lines.append(
            f"  {one.trial.name}: {verdict.verdict}, {verdict.states:,} states: "
            f"{'DIFFERS' if wrong else 'the same'}"
        )
        lines += _indented(wrong)
    return "\n".join(lines) + "\n"


def last_line(
    head: Sequence[str],
    wrong: bool,
    left_out: Sequence[Sequence[str]],
    python: str,
    same_python: bool,
) -> str:
    """The answer: the certificate is true of the code of now, or not; what it does not say."""
    lines = _indented(head)
    if not same_python:
        lines += wrap(
            f"Made with Python {str(python)[:20]}, this is {PYTHON}: hashes of code cannot be "
            "compared between them, and were not; all else was.",
            width(),
        )
    if wrong or head:
        lines.append("DIFFERS from the certificate.")
    elif any(left_out):
        lines.append("As the certificate says, and it does not have the whole suite.")
    else:
        lines.append("As the certificate says.")
    return "\n".join(lines) + "\n"


def _how_much(left_out: Sequence[str], tried: Sequence[Tried]) -> str:
    if not left_out:
        return f"the whole suite: {len(tried)} trials"
    of_suite = sum(bool(one.asked.trial) for one in tried)
    if not of_suite:
        return f"no trial of the suite: {len(tried)} of its own"
    return f"a part of the suite: without {', '.join(left_out)}"


def _indented(lines: Sequence[str]) -> list[str]:
    return [
        piece
        for line in lines
        for piece in wrap(line, width(), initial_indent="  ", subsequent_indent="    ")
    ]
