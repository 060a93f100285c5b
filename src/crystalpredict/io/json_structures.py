"""Read pymatgen structures from JSON: pymatgen's format, that of jarvis-tools, and plain arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from crystalpredict.crystals.crystal import lattice_from_parameters
from crystalpredict.errors import StructureError
from crystalpredict.io.from_ase import text_of_dictionary
from crystalpredict.io.json_text import DOWNLOAD_AGAIN, json_reason, parsed_json, parsed_literal
from crystalpredict.io.optimade import structure_of_optimade
from crystalpredict.io.plain import PlainCrystal, all_or_none, plain_crystal
from crystalpredict.io.table_structures import ASE_KEYS

BROKEN_JSON = "broken pymatgen JSON"
MAX_OXIDATION_STATE = 20  # larger ones are checked by pymatgen
_PERIODIC = [True, True, True]
_KEYS_OF_JARVIS = frozenset({"lattice_mat", "coords", "elements"})  # jarvis-tools
_KEYS_OF_ARRAYS = frozenset({"lattice", "species", "frac_coords"})
_KEYS_OF_ROWS = frozenset({"ids", "nextid"})  # of an ASE database as JSON
_KEYS_OF_SPECIES = frozenset({"element", "occu", "oxidation_state", "spin"})


def structures_of_json(text: str) -> list[Structure | StructureError]:
    """Return the structures of a JSON object or list, each of which may be an error.

    Raises:
        StructureError: The JSON is broken, too large or an empty list.
    """
    try:
        content = parsed_literal(text) or parsed_json(text)
    except (ValueError, RecursionError) as error:
        raise StructureError(f"broken JSON ({json_reason(error)}): {DOWNLOAD_AGAIN}") from None
    items = content if isinstance(content, list) else data_of(content)
    if not items:
        raise StructureError("an empty JSON list: no structures in it")
    return [_structure_of_dict(item) for item in items]


def data_of(content: Any) -> list[Any]:
    """Return the documents in a JSON object; an object that is none of these is the only document itself.

    They are under `data`, as OPTIMADE and the Materials Project answer, or the rows of an ASE database with their ids.
    """
    if isinstance(content, dict) and content.keys() >= _KEYS_OF_ROWS and isinstance(ids := content["ids"], list):
        return [{"id": str(name), **row} for name in ids if isinstance(row := content.get(str(name)), dict)]
    data = content.get("data") if isinstance(content, dict) else None
    if not data or {"structure", "sites", "atoms", "lattice", "columns"} & set(content):
        return [content]
    if isinstance(data, dict):
        return [data] if {"attributes", "structure"} & set(data) else [content]
    whole = isinstance(data, list) and all(isinstance(item, dict) for item in data)
    return data if whole else [content]


def plain_of_json(text: str) -> Sequence[PlainCrystal]:
    """Return the crystals of a JSON object or list; none if one of them has an error or needs further checks."""
    try:
        content = parsed_json(text)
        return all_or_none([_plain_of_dict(item) for item in (content if isinstance(content, list) else [content])])
    except MemoryError:
        raise
    except Exception:  # whatever is wrong, `structures_of_json` finds it again
        return ()


def _plain_of_dict(item: Any) -> PlainCrystal | None:
    """Return a crystal of ordered sites, in one of the formats of `_structure_of_keys`; None for anything else."""
    item = _innermost(item)
    keys = item.keys()
    if "lattice_vectors" in keys or keys >= ASE_KEYS or keys >= _KEYS_OF_ROWS:
        return None
    if keys >= _KEYS_OF_JARVIS:
        symbols, cartesian = [str(symbol).strip() for symbol in item["elements"]], item.get("cartesian", False)
        plain = isinstance(cartesian, bool)
        return plain_crystal(item["lattice_mat"], symbols, item["coords"], cartesian=cartesian) if plain else None
    if keys >= _KEYS_OF_ARRAYS:
        _refuse_no_cell(item["lattice"])
        lattice = Lattice.from_parameters(*item["lattice"]).matrix
        return plain_crystal(lattice, item["species"], item["frac_coords"])
    if item["lattice"].get("pbc", _PERIODIC) != _PERIODIC:
        return None
    symbols = []
    for site in item["sites"]:
        (species,) = site["species"]
        if species["occu"] != 1 or not species.keys() <= _KEYS_OF_SPECIES or species.get("spin") is not None:
            return None
        if not -MAX_OXIDATION_STATE <= (species.get("oxidation_state") or 0) <= MAX_OXIDATION_STATE:
            return None
        symbols.append(species["element"])
    return plain_crystal(item["lattice"]["matrix"], symbols, [site["abc"] for site in item["sites"]])


def _innermost(item: Any) -> Any:
    """Return the structure inside of a document; any other item is returned unchanged."""
    for key in ("structure", "atoms", "attributes"):  # of a computed entry, of a row of a data set, of OPTIMADE
        if isinstance(item, dict) and isinstance(item.get(key), dict):
            item = item[key]
    return item


def _structure_of_dict(item: Any) -> Structure | StructureError:
    item = _innermost(item)
    try:
        return _structure_of_keys(item, set(item) if isinstance(item, dict) else set())
    except StructureError as error:
        return StructureError(f"{BROKEN_JSON}: {error}")
    except MemoryError:
        raise
    except Exception:  # pymatgen raises errors of many kinds
        return StructureError(f"{BROKEN_JSON}: check the lattice, the species and the three coordinates of each site")


def _structure_of_keys(item: Any, keys: set[str]) -> Structure | StructureError:
    if keys >= _KEYS_OF_JARVIS:
        symbols = [_species(str(symbol).strip(), n) for n, symbol in enumerate(item["elements"], start=1)]
        cartesian = item.get("cartesian", False)
        if not isinstance(cartesian, bool):
            raise StructureError(f"cartesian is {str(cartesian)[:40]!r}: it must be true or false")
        return Structure(item["lattice_mat"], symbols, item["coords"], coords_are_cartesian=cartesian)
    if "lattice_vectors" in keys:
        return _or_error(structure_of_optimade, item)
    if keys >= ASE_KEYS and "sites" not in keys:  # of ASE's Atoms
        return _or_error(_structure_of_ase, item)
    if keys >= _KEYS_OF_ARRAYS:
        _refuse_no_cell(item["lattice"])
        species = [_species(each, n) for n, each in enumerate(item["species"], start=1)]
        return Structure(Lattice.from_parameters(*item["lattice"]), species, item["frac_coords"])
    if {"composition", "energy"} <= keys:
        return StructureError("a ComputedEntry without a structure: write a ComputedStructureEntry")
    if "sites" not in keys:
        return StructureError("JSON without a pymatgen Structure: write it with structure.to(filename=...)")
    if "lattice" not in keys:
        return StructureError("a molecule without a lattice: a periodic cell is needed")
    if item["sites"] == []:
        raise StructureError("a structure needs at least 1 site")
    if "matrix" not in item["lattice"]:
        _refuse_no_cell([item["lattice"][name] for name in ("a", "b", "c", "alpha", "beta", "gamma")])
    _refuse_unclear(item["lattice"].get("pbc", _PERIODIC))
    # without properties: pymatgen would import the modules that they name
    sites = [_site(site, number) for number, site in enumerate(item["sites"], start=1)]
    return Structure.from_dict({"lattice": item["lattice"], "sites": sites})


def _or_error(read: Callable[[dict[str, Any]], Structure], item: dict[str, Any]) -> Structure | StructureError:
    """Return a structure, or its error without the name of pymatgen."""
    try:
        return read(item)
    except StructureError as error:
        return error


def _structure_of_ase(item: dict[str, Any]) -> Structure:
    arrays = json.loads(text_of_dictionary(item))
    return Structure(arrays["lattice_mat"], arrays["elements"], arrays["coords"], coords_are_cartesian=True)


def _refuse_unclear(periodic: Any) -> None:
    """Raise StructureError unless it says whether a cell repeats along each of its three vectors."""
    if not isinstance(periodic, list | tuple) or len(periodic) != 3 or any(flag not in (0, 1) for flag in periodic):
        raise StructureError(f"pbc={str(periodic)[:60]}: write true or false for each of the three directions")


def _refuse_no_cell(parameters: Any) -> None:
    """Raise StructureError for impossible lengths and angles, from which pymatgen would still make a cell."""
    if len(parameters) != 6:
        raise StructureError(f"a lattice of {len(parameters)} numbers: give three lengths and three angles")
    try:
        lattice_from_parameters(parameters)
    except ValueError as error:
        raise StructureError(str(error)) from None


def _site(site: Any, number: int) -> dict[str, Any]:
    """Return the species and coordinates of a site of pymatgen's JSON.

    Raises:
        StructureError: An element, an occupancy or the number of coordinates is impossible.
    """
    occupancies = [float(each["occu"]) for each in site["species"]]
    for each, occupancy in zip(site["species"], occupancies, strict=True):
        _species(each["element"], number)
        if not 0 <= occupancy < np.inf:  # false for not-a-number too
            what = "negative occupancy" if occupancy < 0 else "occupancy"
            raise StructureError(f"{what} {occupancy:g} at site {number}: it must lie in 0 to 1")
    if sum(occupancies) > 1 + 1e-8:
        raise StructureError(f"occupancies at site {number} add up to {sum(occupancies):.3g}, which is more than 1")
    if len(site["abc"]) != 3:
        raise StructureError(f"site {number} has {len(site['abc'])} coordinates instead of three")
    species: dict[str, dict[str, Any]] = {}
    for each, occupancy in zip(
        site["species"], occupancies, strict=True
    ):  # pymatgen would drop all but the last of equal species
        key = json.dumps({name: value for name, value in each.items() if name != "occu"}, sort_keys=True, default=str)
        species[key] = {**each, "occu": occupancy + species.get(key, {}).get("occu", 0.0)}
    return {"species": list(species.values()), "abc": site["abc"]}


def _species(name: Any, number: int) -> Any:
    """Return a species as it is; StructureError for a text that is not an element."""
    if isinstance(name, str):
        named = re.fullmatch(r"([A-Z][a-z]?)([0-9.]*[+-])?", name)
        if named is None or not Element.is_valid_symbol(named[1]):
            raise StructureError(f"unknown element {name[:40]!r} at site {number}: name a chemical element")
    return name
