"""The contents of `lost` rows as text; equal losses are reported once."""

from __future__ import annotations

from laconic.trace.schema import Row

#: The maximum number of distinct texts; further ones are only counted.
KEPT = 100


class Losses:
    """The losses of one trace: `places`, `missing` (lines or calls, as far as known), and their
    texts."""

    def __init__(self) -> None:
        self.places = 0
        self.missing = 0
        self._texts: dict[str, list[int]] = {}

    def add(self, row: Row) -> None:
        """Add one `lost` row. O(1)."""
        text = row.data.decode("utf-8", "replace")
        self.places += 1
        self.missing += row.a0
        if text not in self._texts and len(self._texts) >= KEPT:
            text = "other losses"
        found = self._texts.setdefault(text, [0, 0])
        found[0] += 1
        found[1] += row.a0

    def sentences(self) -> list[str]:
        """Return one sentence for each kind of loss, in the order of first appearance."""
        found = []
        for text, (places, missing) in self._texts.items():
            facts = [f"{missing:,}"] if missing else []
            facts += [f"in {places:,} places"] if places > 1 else []
            found.append(f"{text} ({', '.join(facts)})" if facts else text)
        return found
