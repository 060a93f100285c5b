"""Damaged structure files, each the same again for the same seed and number."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from crystalpredict.io.structure_text import parse_text

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
Damage = Callable[[bytes, random.Random], bytes]

NUMBER = re.compile(rb"(?<![\w.])[-+]?[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?(?![\w.])")
WORD = re.compile(rb"\S+")
NUMBERS = (
    "0 -0 -1 1e308 -1e308 1e-320 1e9999 1e4000000 nan inf -inf 99999999999999999999 100000 4294967297 0x10 1/0 1.2.3 "
    "1(2) 1.5(1000000000) ? . -- + - 1d3 1_000 1,5 1e 5e5 0.33333 1e-9 179.9999 360 -90 \N{ARABIC-INDIC DIGIT THREE} "
    "\N{FULLWIDTH DIGIT ONE} \N{SUPERSCRIPT TWO} \N{VULGAR FRACTION ONE HALF} " + 400 * "9"
).split()
WORDS = (
    "X Lp Md Es Og Uue D T Na+ O2- O-2 O2-+ Fe99+ Na0+ Vac Wat OH H2O data_ data_x loop_ save_ save_x global_ stop_ "
    "# ; ' \" ''' ;; $ [ ] { } \\ %s %n {0} {} @ * True None null true _ __class__ _cell_length_a _atom_site_fract_x "
    "_atom_site_label _atom_site_occupancy _atom_site_aniso_U_11 _atom_site_moment.crystalaxis_x "
    "_symmetry_equiv_pos_as_xyz _space_group_symop_operation_xyz _symmetry_Int_Tables_number _space_group_name_Hall "
    "_atom_site_wyckoff_symbol _chemical_formula_sum _cell_modulation_dimension Selective Direct Cartesian Direct! "
    "\ufeff \u2028 \x85 \x1c \x0c \x00 \u202e \U0001f48e " + 100_000 * "A"
).split(" ")
OPERATIONS = (
    "x,y", "x,y,z,w", "x", "", ",,", "x,,z", "1/0,y,z", "x+1/0,y,z", "x+999999999999999999999,y,z", "x+1e300,y,z",
    "2x,y,z", "x*2,y,z", "x^2,y,z", "x/3,y/3,z/3", "xx,yy,zz", "x+y+z,x+y+z,x+y+z", "0,0,0", "x,x,x", "-x,-y,-z,+1",
    "x-y,x,z+1/6", "x+0.333,y+0.667,z", "1/2+x,y,-1/2-z", "x;y;z", "a,b,c", "h,k,l", "x, y, z'", "X,Y,Z", "x--y,y,z",
    "__import__('os').getpid(),y,z", "lambda,y,z", "9**9**9,y,z", "x,y,z/0.0", "nan,nan,nan", "x+nan,y,z", "?", ".",
)  # fmt: skip
GROUPS = ("P 1", "P -999", "F m -3 m", "R -3 m", "R -3 m :R", "P 21/c", "?", "'", "C 1 2/m 1 (a+b,c,0)", "0", "231")
ENCODINGS = ("utf-16", "utf-16-be", "utf-32", "utf-7", "cp037", "utf-8-sig")
LINE_ENDS = (b"\r\n", b"\r", b"\n\n", b"\n\r", b"\x0b", b"\x85", b"")


def flip_bytes(content: bytes, rng: random.Random) -> bytes:
    letters = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 30))):
        letters[rng.randrange(len(letters))] = rng.randrange(256)
    return bytes(letters)


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    letters = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        letters[rng.randrange(len(letters))] ^= 1 << rng.randrange(8)
    return bytes(letters)


def lose_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    first = rng.randrange(len(lines))
    del lines[first : first + rng.choice((1, 1, 2, 5))]
    return b"\n".join(lines)


def repeat_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    line = rng.randrange(len(lines))
    times = rng.choice((1, 1, 2, 10, 300, 30_000 if len(lines[line]) < 30 else 1))
    return b"\n".join([*lines[:line], *[lines[line]] * times, *lines[line:]])


def move_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    lines.insert(rng.randrange(len(lines)), lines.pop(rng.randrange(len(lines))))
    return b"\n".join(lines)


def shuffle_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def swap_words(content: bytes, rng: random.Random) -> bytes:
    found = list(WORD.finditer(content))
    if len(found) < 2:
        return content
    one, two = sorted(rng.sample(found, 2), key=lambda word: word.start())
    middle = content[one.end() : two.start()]
    return content[: one.start()] + two[0] + middle + one[0] + content[two.end() :]


def odd_number(content: bytes, rng: random.Random) -> bytes:
    return _replaced(NUMBER, rng.choice(NUMBERS), content, rng)


def odd_word(content: bytes, rng: random.Random) -> bytes:
    return _replaced(WORD, rng.choice(WORDS), content, rng)


def _replaced(what: re.Pattern[bytes], text: str, content: bytes, rng: random.Random) -> bytes:
    found = list(what.finditer(content))
    if not found:
        return content
    old = rng.choice(found)
    return content[: old.start()] + text.encode() + content[old.end() :]


def insert_word(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(("", " ", "\n")).encode() + rng.choice(WORDS).encode() + content[place:]


def scale_numbers(content: bytes, rng: random.Random) -> bytes:
    """All numbers larger or smaller by the same power of ten, or all negative."""
    ending = rng.choice((b"e3", b"e-3", b"e150", b"e-150", b"0", b"9", b"/2"))
    start = rng.choice((b"", b"", b"-"))
    return NUMBER.sub(lambda number: start + number[0] + ending, content)


def cut_off(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def join(content: bytes, rng: random.Random) -> bytes:
    """The file many times over, or its parts in another order."""
    if rng.random() < 0.5:
        return content * rng.choice((2, 3, 5))
    place = rng.randrange(len(content) + 1)
    return content[place:] + content[:place]


def other_line_ends(content: bytes, rng: random.Random) -> bytes:
    return content.replace(b"\n", rng.choice(LINE_ENDS))


def other_encoding(content: bytes, rng: random.Random) -> bytes:
    encoded = content.decode("utf-8", "replace").encode(rng.choice(ENCODINGS), "replace")
    return encoded[: len(encoded) - rng.choice((0, 0, 1))]


def pack(content: bytes, rng: random.Random) -> bytes:
    """Compressed, and then perhaps damaged."""
    packed = rng.choice((gzip.compress, bz2.compress, lzma.compress))(content)
    return rng.choice((flip_bytes, cut_off, lambda same, _: same))(packed, rng)


def absurd_symmetry(content: bytes, rng: random.Random) -> bytes:
    """Operations or a space group that nobody meant, before the first loop."""
    operations = [rng.choice(OPERATIONS) for _ in range(rng.choice((1, 2, 5, 200, 5000)))]
    tag = rng.choice(("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz"))
    loop = f"loop_\n{tag}\n" + "".join(f"'{operation}'\n" for operation in operations)
    group = f"{rng.choice(('_symmetry_space_group_name_H-M', '_space_group_name_Hall'))} '{rng.choice(GROUPS)}'\n"
    content = re.sub(rb"'?[-+xyz0-9/ ]+,[-+xyz0-9/ ]+,[-+xyz0-9/ ]+'?", b"", content) if rng.random() < 0.5 else content
    return content.replace(b"loop_", rng.choice((loop, group, group + loop)).encode() + b"loop_", 1)


DAMAGES: tuple[Damage, ...] = (
    flip_bytes, flip_bits, lose_lines, repeat_line, move_line, shuffle_lines, swap_words, odd_number, odd_number,
    odd_number, odd_word, odd_word, insert_word, scale_numbers, cut_off, join, other_line_ends, other_encoding, pack,
    absurd_symmetry, absurd_symmetry,
)  # fmt: skip


def originals() -> list[bytes]:
    """The examples, and some of them as pymatgen JSON and as extended XYZ."""
    contents = [path.read_bytes() for path in sorted(EXAMPLES.iterdir())]
    for name in ("NaCl.cif", "MoS2.cif", "Si.vasp"):
        (structure,) = parse_text((EXAMPLES / name).read_text())
        contents.append(json.dumps(structure.as_dict(), indent=1).encode())
        lattice = " ".join(f"{number:.6f}" for number in structure.lattice.matrix.flat)
        atoms = [f"{site.specie.symbol} {site.x:.6f} {site.y:.6f} {site.z:.6f}" for site in structure]
        head = f'{len(atoms)}\nLattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"\n'
        contents.append((head + "\n".join(atoms) + "\n").encode() * 2)
    return contents


def mutant(contents: Sequence[Sequence[bytes]], seed: int, number: int) -> bytes:
    """One of the contents of one of some groups, damaged in one to four ways."""
    rng = random.Random(f"{seed} {number}")
    content = rng.choice(rng.choice(contents))
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = rng.choice(DAMAGES)(content, rng) or b" "
    return content
