"""Which elements a crystal may have: `--elements`, `--exclude-elements` and `--chemsys`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from crystalpredict.errors import UsageError

_SYMBOL = re.compile("[A-Z][a-z]?")
ISOTOPES = {"D": "H", "T": "H"}


@dataclass(frozen=True)
class Elements:
    """Conditions on the elements of a crystal.

    Attributes:
        all_of: Elements that it must have, perhaps among others.
        none_of: Elements that it must not have.
        systems: Chemical systems, of which it must have one; none: any.
    """

    all_of: frozenset[str] = frozenset()
    none_of: frozenset[str] = frozenset()
    systems: frozenset[frozenset[str]] = field(default_factory=frozenset)

    @classmethod
    def of(cls, elements: str | None, exclude: str | None, chemsys: str | None) -> Elements:
        """Return the conditions of a command's options.

        Args:
            elements: `Li,O`: elements that crystals must have.
            exclude: `Pb,Cd`: elements that they must not have.
            chemsys: `Li-Fe-O,Li-O`: systems; a crystal must have exactly the elements of one of them.

        Raises:
            UsageError: A text names no element, or no crystal can fulfil the conditions.
        """
        systems = [system for system in (chemsys or "").split(",") if system.strip()]
        if chemsys is not None and not systems:
            raise UsageError("--chemsys names no element: write it as in Li-Fe-O")
        found = cls(
            _symbols("--elements", elements, ","),
            _symbols("--exclude-elements", exclude, ","),
            frozenset(_symbols("--chemsys", system, "-") for system in systems),
        )
        if both := sorted(found.all_of & found.none_of):
            raise UsageError(f"--elements and --exclude-elements both name {both[0]}: no crystal has both")
        if found.systems and not any(found.all_of <= each and not found.none_of & each for each in found.systems):
            raise UsageError(f"--chemsys {str(chemsys)[:60]}: no such crystal is left by the other options on elements")
        return found

    def __bool__(self) -> bool:
        return bool(self.all_of or self.none_of or self.systems)

    def allow(self, formula: str) -> bool:
        """Whether a crystal of a formula fulfils the conditions."""
        if not self:
            return True
        present = elements_in(formula)
        in_system = not self.systems or present in self.systems
        return in_system and self.all_of <= present and not self.none_of & present


ANY_ELEMENTS = Elements()


def elements_in(formula: str) -> frozenset[str]:
    """Return the symbols of the elements in a formula."""
    return frozenset(ISOTOPES.get(symbol, symbol) for symbol in _SYMBOL.findall(formula))


def _symbols(option: str, text: str | None, separator: str) -> frozenset[str]:
    """Return the elements that the value of an option names, which is None if the option is not given."""
    if text is None:
        return frozenset()
    names = [name.strip() for name in text.split(separator) if name.strip()]
    if not names:
        raise UsageError(f"{option} names no element: write it as in {separator.join(('Li', 'O'))}")
    return frozenset(_symbol(option, name) for name in names)


def _symbol(option: str, name: str) -> str:
    from crystalpredict.crystals.crystal import ELEMENTS  # here: it imports NumPy

    symbol = ISOTOPES.get(name, name)
    if symbol not in ELEMENTS:
        hint = name.capitalize() if name.capitalize() in ELEMENTS else "symbols such as Li"
        raise UsageError(f"{option} {name[:20]}: no element that a model covers: write {hint}")
    return symbol
