"""Commands that measure; each prints what it finds and writes a table to results/."""
