"""Replaces libraries of CUDA by ones with the same names in them and nothing behind: for an image that meets no GPU.

    python cuda_stubs.py FOLDER...

torch's CUDA build is linked against libraries that it calls only when a GPU was found, and does not load without them:
1.7 GB of kernels. What takes their place exports every symbol, with its version, as a function that fails with status
1, or gives a text where a text is asked for. It needs no compiler: what is written is the smallest shared library that
the dynamic loader takes. Only libraries for x86-64 are replaced.
"""
# ruff: noqa: INP001  it is copied into the build, and belongs to no package

import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STUBBED = (
    "libcublas.so.*",
    "libcublasLt.so.*",
    "libcufft.so.*",
    "libcusparse.so.*",
    "libcusparseLt.so.*",
    "libnccl.so.*",
    "libnvJitLink.so.*",
    "libnvrtc.so.*",
)
"""Of what torch is linked against, what is large. What it asks whether there is a GPU (cudart) stays, and so does
nvshmem, which is called when torch is loaded."""

_PAGE = 0x1000
_X86_64 = 62
_LOAD, _DYNAMIC, _STACK = 1, 2, 0x6474E551
_HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 4, 5, 6, 10, 11, 14
_GNU_HASH = 0x6FFFFEF5
_VERSYM, _VERDEF, _VERDEFNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD
_SYMBOL = struct.Struct("<IBBHQQ")
_FAIL = b"\xb8\x01\x00\x00\x00\xc3"  # mov eax, 1; ret
_TEXT = b"no GPU: this image has no CUDA\0"


class NotReplaceable(Exception):
    """A file is no shared library of the kind that can be replaced."""


@dataclass(frozen=True)
class Exports:
    """What a shared library offers to others."""

    soname: str
    symbols: tuple[tuple[str, str], ...]
    """Name and version of each symbol; the version is empty where it has none."""


def read_exports(content: bytes) -> Exports:
    """What a library exports.

    Raises:
        NotReplaceable: it is not a library for Linux on x86-64.
    """
    if content[:5] != b"\x7fELF\x02" or struct.unpack_from("<H", content, 18)[0] != _X86_64:
        raise NotReplaceable("not a library for x86-64")
    start, size, count = *struct.unpack_from("<Q", content, 32), *struct.unpack_from("<HH", content, 54)
    segments = [struct.unpack_from("<IIQQQQ", content, start + size * number) for number in range(count)]

    def offset(address: int) -> int:
        for kind, _, at, virtual, _, length in segments:
            if kind == _LOAD and virtual <= address < virtual + length:
                return at + address - virtual
        raise NotReplaceable(f"nothing is loaded at {address:#x}")

    (dynamic,) = [segment for segment in segments if segment[0] == _DYNAMIC]
    tags = dict(struct.iter_unpack("<QQ", content[dynamic[2] : dynamic[2] + dynamic[5] // 16 * 16]))
    strings = offset(tags[_STRTAB])

    def string(index: int) -> str:
        return content[strings + index : content.index(b"\0", strings + index)].decode()

    symbols, versions = offset(tags[_SYMTAB]), dict(_versions(content, tags, offset, string))
    numbers = offset(tags[_VERSYM]) if _VERSYM in tags else None
    found: list[tuple[str, str]] = []
    for number in range(1, _symbol_count(content, tags, offset)):
        name, info, _, section, _, _ = _SYMBOL.unpack_from(content, symbols + number * _SYMBOL.size)
        if section == 0 or info >> 4 not in (1, 2):
            continue
        version = struct.unpack_from("<H", content, numbers + 2 * number)[0] & 0x7FFF if numbers else 0
        found.append((string(name), versions.get(version, "")))
    # The interfaces are C's; names of C++ are of templates that everybody has, and would take the place of others' own.
    # A version's own name is a symbol, too.
    kept = [(name, version) for name, version in found if not name.startswith("_Z") and name not in versions.values()]
    return Exports(string(tags[_SONAME]), tuple(kept))


def _symbol_count(content: bytes, tags: Mapping[int, int], offset: Callable[[int], int]) -> int:
    """How many symbols there are, which only the tables say that lead to them."""
    if _HASH in tags:
        return struct.unpack_from("<I", content, offset(tags[_HASH]) + 4)[0]
    if _GNU_HASH not in tags:
        raise NotReplaceable("nothing leads to its symbols")
    at = offset(tags[_GNU_HASH])
    buckets, first, words = struct.unpack_from("<III", content, at)
    starts = at + 16 + 8 * words
    last = max(struct.unpack_from(f"<{buckets}I", content, starts))
    if last < first:
        return first
    chains = starts + 4 * buckets
    # Of each bucket's symbols the last one has a mark.
    while not struct.unpack_from("<I", content, chains + 4 * (last - first))[0] & 1:
        last += 1
    return last + 1


def _versions(
    content: bytes, tags: Mapping[int, int], offset: Callable[[int], int], string: Callable[[int], str]
) -> Iterator[tuple[int, str]]:
    """Names of versions by number, but for that of the library itself."""
    if _VERDEF not in tags:
        return
    at = offset(tags[_VERDEF])
    for _ in range(tags[_VERDEFNUM]):
        _, flags, number, _, _, names, following = struct.unpack_from("<HHHHIII", content, at)
        if not flags & 1:
            yield number, string(struct.unpack_from("<I", content, at + names)[0])
        at += following


def write_stub(exports: Exports) -> bytes:
    """A library that exports the same, and does nothing."""
    names = bytearray(b"\0")
    places: dict[str, int] = {"": 0}

    def place(text: str) -> int:
        if text not in places:
            places[text] = len(names)
            names.extend(text.encode() + b"\0")
        return places[text]

    soname = place(exports.soname)
    versions = sorted({version for _, version in exports.symbols if version})
    numbers = {version: number for number, version in enumerate(versions, 2)}
    count = len(exports.symbols) + 1
    for name, _ in exports.symbols:
        place(name)
    definitions = _definitions([exports.soname, *versions], place) if versions else b""
    sizes = {
        "header": 64 + 56 * 4,
        "hash": 4 * (2 + 2 * count),
        "symbols": _SYMBOL.size * count,
        "versions": 2 * count if versions else 0,
        "definitions": len(definitions),
        "names": len(names),
        "fail": len(_FAIL),
        "tell": 8,
        "text": len(_TEXT),
    }
    at: dict[str, int] = {}
    end = 0
    for part, size in sizes.items():
        at[part] = end = -(-end // 8) * 8
        end += size
    # To where the text is, from behind the instruction: lea rax, [rip + ...]; ret.
    tell = b"\x48\x8d\x05" + struct.pack("<i", at["text"] - at["tell"] - 7) + b"\xc3"
    table = _SYMBOL.pack(0, 0, 0, 0, 0, 0) + b"".join(
        # Global, a function, in a section that is not said.
        _SYMBOL.pack(places[name], 1 << 4 | 2, 0, 1, at["tell" if "String" in name else "fail"], 1)
        for name, _ in exports.symbols
    )
    marks = struct.pack(f"<{count}H", 0, *(numbers.get(version, 1) for _, version in exports.symbols))
    tags = [(_SONAME, soname), (_HASH, at["hash"]), (_STRTAB, at["names"]), (_SYMTAB, at["symbols"])]
    tags += [(_STRSZ, len(names)), (_SYMENT, _SYMBOL.size)]
    if versions:
        tags += [(_VERSYM, at["versions"]), (_VERDEF, at["definitions"]), (_VERDEFNUM, len(versions) + 1)]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in [*tags, (0, 0)])
    # The loader writes into the dynamic table: it has a page of its own.
    data = -(-end // _PAGE) * _PAGE
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, _X86_64, 1, 0, 64, 0, 0, 64, 56, 4, 0, 0, 0
    )
    header += b"".join(
        struct.pack("<IIQQQQQQ", kind, rights, start, start, start, length, length, alignment)
        for kind, rights, start, length, alignment in (
            (_LOAD, 5, 0, end, _PAGE),
            (_LOAD, 6, data, len(dynamic), _PAGE),
            (_DYNAMIC, 6, data, len(dynamic), 8),
            (_STACK, 6, 0, 0, 16),
        )
    )
    parts = {
        "header": header,
        "hash": _hash_table([name for name, _ in exports.symbols]),
        "symbols": table,
        "versions": marks if versions else b"",
        "definitions": definitions,
        "names": bytes(names),
        "fail": _FAIL,
        "tell": tell,
        "text": _TEXT,
    }
    written = bytearray(data)
    for part, content in parts.items():
        assert len(content) == sizes[part], part
        written[at[part] : at[part] + len(content)] = content
    return bytes(written) + dynamic


def _definitions(versions: Sequence[str], place: Callable[[str], int]) -> bytes:
    """The table of versions; the first is the library itself."""
    written = b""
    for number, version in enumerate(versions, 1):
        following = 28 if number < len(versions) else 0
        written += struct.pack("<HHHHIII", 1, 1 if number == 1 else 0, number, 1, _hash(version), 20, following)
        written += struct.pack("<II", place(version), 0)
    return written


def _hash_table(names: Sequence[str]) -> bytes:
    """The loader's way from a name to its symbol."""
    count = len(names) + 1
    buckets, chains = [0] * count, [0] * count
    for number, name in enumerate(names, 1):
        bucket = _hash(name) % count
        chains[number], buckets[bucket] = buckets[bucket], number
    return struct.pack(f"<{2 + 2 * count}I", count, count, *buckets, *chains)


def _hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value & 0xFFFFFFFF


def main(folders: Sequence[str]) -> int:
    """Replace what is to be replaced in these folders and below; says what that saves."""
    saved = 0
    for folder in folders:
        for pattern in STUBBED:
            for library in sorted(Path(folder).rglob(pattern)):
                content = library.read_bytes()
                try:
                    stub = write_stub(read_exports(content))
                except NotReplaceable as error:
                    print(f"{library} stays as it is: {error}")
                    continue
                library.write_bytes(stub)
                saved += len(content) - len(stub)
    print(f"stubs in place of CUDA's libraries: {saved / 1e6:.0f} MB less")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
