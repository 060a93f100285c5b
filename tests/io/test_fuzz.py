"""Damaged and invented files give a crystal or one foreseen line; `make fuzz` tries a hundred thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalpredict.io.entries import Entry, Inline, read_entries
from crystalpredict.io.reader import read_chunk
from tests.fuzz import LIMITS, RADIUS, complaint
from tests.mutants import GROUPS, NUMBERS, OPERATIONS, WORDS, mutant, originals

ROOT = Path(__file__).resolve().parents[2]
quick = settings(max_examples=200, derandomize=True, deadline=None, database=None)


def complaints(*texts: str | bytes) -> list[str]:
    sources = [Inline(str(number), text) for number, text in enumerate(texts)]
    entries = read_chunk(sources, RADIUS, merge=True, limits=LIMITS)
    assert {int(entry.path) for entry in entries} == set(range(len(texts)))
    return [f"{entry.path}: {wrong}" for entry in entries if (wrong := complaint(entry))]


def test_mutants_are_crystals_or_foreseen_errors() -> None:
    contents = [originals()]
    assert complaints(*(mutant(contents, 7, number) for number in range(300))) == []


def test_a_mutant_is_the_same_again_and_others_differ() -> None:
    contents = [originals()]
    some = [mutant(contents, 0, number) for number in range(50)]
    assert some == [mutant(contents, 0, number) for number in range(50)]
    assert len({*some, *(mutant(contents, 1, number) for number in range(50))}) > 90


def test_what_must_not_happen_is_noticed() -> None:
    (good,) = read_entries(str(ROOT / "examples" / "NaCl.cif"), RADIUS)
    assert complaint(good) == ""
    unforeseen = "cannot be read (KeyError: 'x'): please report it with this file"
    for error in (unforeseen, LIMITS.exceeded, "two\nlines", "tab\there", "long" * 200):
        assert complaint(Entry("a", 0, error=error)) != ""
    for entry in (Entry("a", 0), Entry("a", 0, "NaCl", 8, good.crystal, None), Entry("a", 0, "", 8, good.crystal)):
        assert complaint(entry) != ""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no memfd")
def test_what_a_reader_writes_to_stderr_is_noticed() -> None:
    code = "import sys, tests.fuzz as f; from crystalpredict.io.entries import Entry; "
    code += "f.read_source = lambda *_: print('oh', file=sys.stderr) or [Entry('a', 0, error='e')]; "
    code += "print(f.complaint(f.Watched()('a')[0]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr, "oh" in done.stdout) == (0, "", True)


words = st.sampled_from([*NUMBERS, *WORDS[:-1], *OPERATIONS, *GROUPS, "Na", "Cl", "0", "0.5", "1", "3.5", "90"])
fields = words.map(lambda word: f"'{word}'" if " " in word or not word else word) | st.floats().map(str)


@st.composite
def cif_like(draw: st.DrawFn) -> str:
    """A CIF whose values and whose columns are anyone's guess."""
    cell = [f"_cell_{name} {draw(st.just('5') | fields)}" for name in ("length_a", "length_b", "length_c")]
    cell += [f"_cell_angle_{name} {draw(st.just('90') | fields)}" for name in ("alpha", "beta", "gamma")]
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy", "symmetry_multiplicity"]
    columns = draw(st.lists(st.sampled_from(columns), unique=True)) if draw(st.booleans()) else columns[:5]
    rows = draw(st.lists(st.lists(fields, min_size=len(columns), max_size=len(columns)), max_size=4))
    operations = draw(st.lists(st.sampled_from(OPERATIONS), max_size=4))
    symmetry = ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{one}'" for one in operations)] if operations else []
    lines = ["data_x", *cell, *symmetry, "loop_", *(f"_atom_site_{name}" for name in columns), *map(" ".join, rows)]
    return "\n".join(draw(st.permutations(lines)) if draw(st.integers(0, 9)) == 0 else lines)


@quick
@given(st.lists(cif_like(), min_size=1, max_size=3).map("\n".join))
def test_anything_like_a_cif(text: str) -> None:
    assert complaints(text) == []


@quick
@given(
    st.lists(st.lists(fields, min_size=1, max_size=4).map(" ".join), min_size=4, max_size=12),
    st.sampled_from(["c\n1\n4 0 0\n0 4 0\n0 0 4\n", "c\n", '2\nLattice="4 0 0 0 4 0 0 0 4"\n', "1\n"]),
)
def test_anything_like_a_poscar_or_xyz(lines: list[str], head: str) -> None:
    assert complaints(head + "\n".join(lines)) == []


KEYS = "lattice matrix a sites species element occu abc xyz properties charge coords elements lattice_mat frac_coords"
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words | st.sampled_from(["Structure", "@module"])
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5),
)
cells = st.just([[4, 0, 0], [0, 4, 0], [0, 0, 4]]) | values
sites = st.fixed_dictionaries({
    "species": st.lists(st.fixed_dictionaries({"element": words, "occu": st.floats() | leaves}), max_size=2) | values,
    "abc": st.lists(st.floats() | leaves, max_size=4),
})  # fmt: skip


@quick
@given(
    values
    | st.fixed_dictionaries({"lattice": st.fixed_dictionaries({"matrix": cells}), "sites": st.lists(sites, max_size=3)})
    | st.fixed_dictionaries({"lattice_mat": cells, "elements": st.lists(words, max_size=3), "coords": values})
)
def test_anything_like_json(value: object) -> None:
    assert complaints(json.dumps(value), json.dumps([value])) == []


@quick
@given(st.binary(max_size=300), st.sampled_from([b"", b"data_x\n", b"{", b"\x1f\x8b\x08", b"BZh9", b"\xff\xfe"]))
def test_any_bytes(content: bytes, start: bytes) -> None:
    assert complaints(start + content) == []


# What fuzzing has found


def test_numbers_and_words_without_bounds_are_refused_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    frame = '1\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 1e4000 0\n'
    cif = (ROOT / "examples" / "MgO.cif").read_text().replace("0.00000 1.0", "0.00000 1e4000")
    (one,), (two,) = (list(read_entries(Inline("a", text), RADIUS)) for text in (frame, cif))
    (three,) = read_entries(Inline("a", cif.replace("Mg1  Mg", "Mg1  " + 10_000 * "A")), RADIUS)
    assert "unknown element 'AAA" in three.error
    assert three.error.endswith("name a chemical element")
    assert len(three.error) < 350
    assert "a coordinate is not a number" in one.error
    assert "add up to inf" in two.error
    assert capfd.readouterr().err == ""


def test_blocks_of_the_same_name_are_read_as_fast_as_others() -> None:
    text = (ROOT / "examples" / "MgO.cif").read_text()
    code = "import sys; from crystalpredict.io.entries import Inline, read_entries as r; "
    code += "print(len([e for e in r(Inline('a', sys.stdin.read()), 6.0) if e.crystal]), "
    code += "'crystalpredict.io.structure_text' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=text * 30, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("30 False\n", "")
