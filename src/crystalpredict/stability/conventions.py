"""Conventions of formation energies."""

from __future__ import annotations

from enum import StrEnum

from crystalpredict.errors import UsageError


class Convention(StrEnum):
    """Which corrections a formation energy contains (docs/conventions.md)."""

    mp2018 = "mp2018"
    mp2020 = "mp2020"
    uncorrected = "uncorrected"

    @classmethod
    def of(cls, name: str) -> Convention:
        """Return the convention of a name.

        Raises:
            UsageError: There is none.
        """
        if name not in list(cls):
            raise UsageError(f"no convention {name[:40]!r}: choose from {', '.join(cls)}")
        return cls(name)
