"""Recognise files of other programs by their first lines, and say how to convert them."""

from __future__ import annotations

import re

NOT_READABLE = "not a CIF, a POSCAR, pymatgen JSON, extended XYZ or a file of a calculation"
ASE_CONVERT = "convert it with `ase convert -i {} FILE structures.extxyz`"
MARKUP_FORMATS = (
    (r"<(qes:)?espresso", "an XML file of Quantum ESPRESSO: give the output of pw.x"),
    (r"<html|<!doctype html", "a web page, not a structure: download the file itself"),
)
TEXT_FORMATS = (
    (r"^[ \t]*Invoking FHI-aims", "an output of FHI-aims: " + ASE_CONVERT.format("aims-output")),
    (r"\A\s*\d+\s+[SFC]\s*$", "a file of DFTB+: " + ASE_CONVERT.format("gen")),
    (r"^[ \t]*(acell|rprim|rprimd)\b", "an input of ABINIT: " + ASE_CONVERT.format("abinit-in")),
    (r"^[ \t]*%block\s+(LatticeVectors|LatticeParameters|AtomicCoord)", "an input of SIESTA: convert it with sisl"),
    (r"^[ \t]*(CRYST1|HETATM|ATOM  |HEADER )", "a PDB file: " + ASE_CONVERT.format("proteindatabank")),
    (r"^[ \t]*(PRIMVEC|CONVVEC)\b", "an XSF file: " + ASE_CONVERT.format("xsf")),
    (r"\AITEM: TIMESTEP", "a dump of LAMMPS: " + ASE_CONVERT.format("lammps-dump-text") + ", and check the atom types"),
    (
        r"^[ \t]*\d+\s+atoms\s*$",
        "a data file of LAMMPS: " + ASE_CONVERT.format("lammps-data") + ", and check the atom types",
    ),
    (r"^[ \t]*&(force_eval|global)\b", "an input of CP2K: write a CIF or an extended XYZ with CP2K"),
    (
        r"^TITL\b",
        "a .res or .ins file of SHELX or AIRSS: " + ASE_CONVERT.format("res") + ", or write a CIF with SHELXL",
    ),
    (r"\A\s*(PAW_|US |NC )", "a POTCAR of VASP, which has no structure: give the POSCAR"),
    (r"\A\s*(SYSTEM|ALGO|ENCUT|ISMEAR|PREC)\s*=", "an INCAR of VASP, which has no structure: give the POSCAR"),
    (r"V[23]000\s*$", "a molecule without a lattice: a periodic cell is needed"),
    (r"\Aversion https://git-lfs", f"a pointer of Git LFS, {NOT_READABLE}: fetch the file with git lfs pull"),
)
SEARCHED_CHARACTERS = 2**16  # at the beginning of a file
BINARY_FORMATS = (
    (b"SQLite format 3", "a SQLite database: if it is one of ASE, call it *.db"),
    (b"\x89HDF", "an HDF5 file: write a POSCAR or a CIF with the program that made it"),
    (b"PAR1", "a Parquet file: call it *.parquet"),
)


def describe_markup(text: str) -> str:
    """Return what a file of XML or HTML is, and what to do."""
    start = text[:SEARCHED_CHARACTERS]
    found = (what for form, what in MARKUP_FORMATS if re.search(form, start, re.IGNORECASE))
    return next(found, "XML or a web page, not a structure: convert it to CIF, or download the file itself")


def describe_text(text: str) -> str:
    """Return what a text that is not a structure is, and what to do."""
    start = text[:SEARCHED_CHARACTERS]
    found = (what for form, what in TEXT_FORMATS if re.search(form, start, re.MULTILINE | re.IGNORECASE))
    return next(found, f"{NOT_READABLE}: convert it, as with `ase convert FILE out.cif`")


def describe_binary(content: bytes) -> str:
    """Return what a binary file is, and what to do."""
    found = (what for magic, what in BINARY_FORMATS if content.startswith(magic))
    return next(found, "a binary file: give a CIF, a POSCAR or pymatgen JSON")
