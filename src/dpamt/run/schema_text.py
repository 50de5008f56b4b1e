"""The scenario reference, made from the table of fields."""

import sys

from dpamt.run.check import expected, shown, size_text
from dpamt.run.schema import FIELDS, REQUIRED, STEPS, TABLES, Field

_HEAD = """\
# Scenarios

A scenario is a TOML file: a host, the sides to compare, groups of TDs, and what happens.

    dpamt run my.toml
    dpamt run                        # the scenario that comes with dpamt

<!-- Made by `python -m dpamt.run.schema_text`; change the table in src/dpamt/run/schema.py. -->

```toml
title = "One TD, split and gone"

[host]
machine = "16GiB"                   # or a file: dmesg, /proc/iomem, e820

[[side]]
name = "static"
pamt = "static"

[[side]]
name = "v2"
design = "v2"

[[td]]
name = "db"
memory = "1GiB"
vcpus = 2
share_2m = 0.9

[[phase]]
name = "up"
steps = [{ do = "build", td = "db" }, { do = "fault", td = "db" }]

[[phase]]
name = "churn"
steps = [{ do = "split", share = 0.1 }, { do = "crash" }]
```

Module initialisation comes before the first phase.  TDs that are left after the last phase are shut
down in one more phase, `end`, so that every run ends with an audit of a host on which no TD exists.
A key that is not listed here is refused, and so is an impossible step (such as a fault of a TD that
was never built).

Sizes are bytes, or text with a binary unit: `"4GiB"`, `"1.5G"`, `"64KiB"`.  Shares go from 0 to 1.
"""


def reference() -> str:
    """docs/scenario.md."""
    parts = [_HEAD]
    for table, about in TABLES.items():
        parts.append(f"\n## {_heading(table)}\n\n{about}\n")
        parts.append("\n| key | value | default | meaning |\n|---|---|---|---|\n")
        parts += [_row(field) for field in FIELDS if field.table == table]
    parts.append("\n## What a step does\n\n| `do` | what happens |\n|---|---|\n")
    parts += [f"| `{name}` | {meaning} |\n" for name, meaning in STEPS.items()]
    return "".join(parts)


def main() -> None:
    """Write the reference to standard output."""
    sys.stdout.write(reference())


def _heading(table: str) -> str:
    return {"": "Top of the file", "step": "Steps of a phase"}.get(table, f"`{table}`")


def _row(field: Field) -> str:
    return f"| `{field.name}` | {expected(field)} | {_default(field)} | {field.meaning} |\n"


def _default(field: Field) -> str:
    if field.default is REQUIRED:
        return "required"
    if field.default_text:
        return field.default_text
    if field.kind == "size":
        return f"`{size_text(field.default)}`"
    return f"`{shown(field.default)}`"


if __name__ == "__main__":
    main()
