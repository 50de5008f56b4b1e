"""One-line changes to get and put in C, each a fault that people make."""

from typing import NamedTuple

from tests.kernel_image.compiled import C


class CMutant(NamedTuple):
    """A change of one line; ``why`` says why it makes no difference, empty: it must be caught."""

    design: str
    before: str
    after: str
    which: int = 0
    """Occurrence of the line, from 0."""
    why: str = ""

    @property
    def name(self) -> str:
        place = f" ({self.which})" if self.which else ""
        return f"{self.design}: {self.before.strip()} -> {self.after.strip() or 'nothing'}{place}"

    def text(self) -> str:
        """The whole file, changed."""
        parts = (C / f"{self.design}.c").read_text().split(self.before)
        assert len(parts) > self.which + 1, self.name
        before, after = parts[: self.which + 1], parts[self.which + 1 :]
        return self.before.join(before) + self.after + self.before.join(after)


LOCK, UNLOCK = "spin_lock(&dpamt_lock);", "spin_unlock(&dpamt_lock);"
LOCK6, UNLOCK6 = "spin_lock(&pamt_lock);", "spin_unlock(&pamt_lock);"

MUTANTS = (
    # merged: one lock around all.
    CMutant("merged", LOCK, ""),
    CMutant("merged", LOCK, "", 1),
    CMutant("merged", UNLOCK, ""),
    CMutant("merged", UNLOCK, "", 1),
    CMutant("merged", UNLOCK, "", 2),
    CMutant("merged", UNLOCK, "", 3),
    CMutant("merged", UNLOCK, "", 4),
    CMutant("merged", UNLOCK, "", 5),
    CMutant("merged", "atomic_set(count, 1);", ""),
    CMutant("merged", "atomic_set(count, 1);", "atomic_set(count, 2);"),
    CMutant("merged", "atomic_set(count, 1);", "atomic_inc(count);", why="it is 0 under the lock"),
    CMutant("merged", "atomic_set(count, 0);", ""),
    CMutant("merged", "atomic_set(count, 0);", "atomic_dec(count);", why="it is 1 under the lock"),
    CMutant("merged", "atomic_dec(count);", ""),
    CMutant(
        "merged", "atomic_dec(count);", "count->counter--;", why="all other writes hold the lock"
    ),
    CMutant("merged", "atomic_read(count) > 1", "atomic_read(count) >= 1"),
    CMutant("merged", "atomic_read(count) > 1", "atomic_read(count) > 2"),
    CMutant("merged", "atomic_read(count) > 1", "atomic_read(count) != 1", why="never 0 in a put"),
    CMutant("merged", "if (atomic_inc_not_zero(count)) {", "if (0) {"),
    CMutant("merged", "if (atomic_inc_not_zero(count)) {", "if (atomic_read(count)) {"),
    CMutant("merged", "reset_and_free_pair(pair);", ""),
    CMutant(
        "merged", "reset_and_free_pair(pair);", "free_pair(pair);", why="they were never given"
    ),
    CMutant("merged", "reset_and_free_pair(pair);", "", 1),
    CMutant("merged", "reset_and_free_pair(pair);", "", 2),
    CMutant("merged", "reset_and_free_pair(pair);", "free_pair(pair);", 2),
    CMutant("merged", "if (error)\n\t\treturn error;", ""),
    CMutant("merged", "return -EIO;", "return 0;"),
    CMutant("merged", "if (WARN_ON_ONCE(status)) {", "if (0) {"),
    CMutant(
        "merged",
        "if (WARN_ON_ONCE(tdh_phymem_pamt_remove(pfn, pair))) {",
        "if (WARN_ON_ONCE(tdh_phymem_pamt_remove(pfn, pair)), 0) {",
    ),
    CMutant("merged", "pfn / 512", "pfn / 511"),
    CMutant("merged", "pfn / 512", "pfn / 1024"),
    CMutant("merged", "tdh_phymem_pamt_add(pfn, pair)", "tdh_phymem_pamt_add(pfn + 512, pair)"),
    CMutant(
        "merged", "tdh_phymem_pamt_remove(pfn, pair)", "tdh_phymem_pamt_remove(pfn - 512, pair)"
    ),
    CMutant("merged", "tdh_phymem_pamt_remove(pfn, pair)", "tdh_phymem_pamt_remove(pfn, pair + 1)"),
    CMutant(
        "merged",
        "int error = alloc_pair(pair);",
        "int error = (spin_lock(&dpamt_lock), alloc_pair(pair)); spin_unlock(&dpamt_lock);",
    ),
    # v6: the fast path without the lock.
    CMutant("v6", LOCK6, ""),
    CMutant("v6", UNLOCK6, ""),
    CMutant("v6", UNLOCK6, "", 1),
    CMutant("v6", UNLOCK6, "", 2),
    CMutant("v6", "seen = atomic_read(count);", "seen = 0;"),
    CMutant("v6", "atomic_inc(count);", "count->counter++;"),
    CMutant("v6", "atomic_inc(count);", ""),
    CMutant("v6", "if (!status)", "if (1)"),
    CMutant("v6", "if (!status)", "if (status)"),
    CMutant("v6", "atomic_set(count, 1);", ";"),
    CMutant("v6", "atomic_set(count, 1);", ";", 1),
    CMutant("v6", "if (seen || status)", "if (status)"),
    CMutant("v6", "if (seen || status)", "if (seen)"),
    CMutant("v6", "if (seen || status)", "if (1)"),
    CMutant("v6", "return status ? -EIO : 0;", "return 0;"),
    CMutant(
        "v6",
        "if (!atomic_dec_and_lock(count, &pamt_lock))",
        "spin_lock(&pamt_lock);\n\tif (!atomic_dec_and_test(count))",
    ),
    CMutant(
        "v6", "if (!atomic_dec_and_lock(count, &pamt_lock))", "if (!atomic_dec_and_test(count))"
    ),
    CMutant(
        "v6", "if (atomic_inc_not_zero(count))", "if (atomic_read(count) && (atomic_inc(count), 1))"
    ),
    CMutant(
        "v6", "if (atomic_inc_not_zero(count))", "if (0)", why="slower: the count moves locked"
    ),
    CMutant("v6", "reset_and_free_pair(pair);", "free_pair(pair);"),
    CMutant("v6", "reset_and_free_pair(pair);", ""),
    CMutant("v6", "struct page *pair[2] = { NULL, NULL };", "static struct page *pair[2];"),
)
