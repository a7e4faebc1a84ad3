"""Loops over the database, compiled by numba; ``counting.py`` chooses among them.

Grades, codes of 256 bits on and ranks are counted from 64-bit words. All else is counted by
:func:`count_rows`, from bytes: a vector register then holds eight times as many items, and every
processor has a fast popcount of bytes. Two queries share one increment, the pair of their bins
is a cell of a joint table. A histogram's cost is its scattered increments, not the popcounts, so
halving the increments is what pays. The database is laid out for it (:class:`Blocks`) in blocks of
64 items, plane by plane, even codes first: the distance of two codes has the parity of the sum of
their set bits, so within a part all distances to a query have one parity, and half the distance is
enough to tell them apart. That leaves 66 bins a query at 64 bits (33 halves, each relevant or not),
and a table of 66 x 66 16-bit cells stays in the first-level cache beside the items. A plane is one
byte of the code or of the label mask, of 64 items in a row: a cache line and a vector register.

Two more things keep the processor busy. The cells of 64 items are computed in vectors while those
of ``LAG`` blocks ago are counted, one by one: the two kinds of work use different units and overlap
(counting fresh cells instead would wait for their store). And the vectors are written out as LLVM's
own: a loop so short is not vectorised without a check for overlapping arrays that costs more than
the loop.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from udmsh_pl.retrieval.codes import Bytes, WordArrays, Words, popcounts

Int64s = npt.NDArray[np.int64]

TILE = 2048  # items whose bins are computed before they are counted: they stay in a cache
ITEMS = 64  # items of a block
CODE_PLANES, LABEL_PLANES = 8, 4  # planes of a block that are taken at a time: pad to a multiple
LAG = 4  # blocks from the computing of cells to the counting of them
RING = 8  # blocks of cells that are kept: a power of two above LAG
FLUSH = 65_535 // ITEMS  # blocks a table can take before a 16-bit cell might overflow


@intrinsic
def popcount(typing_context, word):
    """Number of set bits of an unsigned integer, in its own type, by one instruction."""

    def emit(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return word(word), emit


@intrinsic
def wide_vectors(typing_context):
    """Let LLVM use 512-bit vectors in the calling function, which it avoids by default."""

    def emit(context, builder, signature, arguments):
        # llvmlite's own add() takes flags only, not name=value
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), emit


@njit(nogil=True, cache=True, boundscheck=False)
def compute_bins(words, row, start, count, levels, shared, bins):
    """``levels * distance + grade`` of ``count`` items from ``start`` on, into ``bins``.

    ``words`` are of queries, database and the labels of both, uint64 [words, items]. The grade is
    the number of shared labels, ``levels`` - 1 at most; ``shared`` is scratch.
    """
    wide_vectors()
    query, database, query_labels, database_labels = words
    bins[:count] = np.uint64(0)
    shared[:count] = np.uint64(0)
    for w in range(query.shape[0]):
        code, column = query[w, row], database[w, start : start + count]
        for j in range(count):
            bins[j] += popcount(column[j] ^ code)
    for v in range(query_labels.shape[0]):
        mask, labels = query_labels[v, row], database_labels[v, start : start + count]
        for j in range(count):
            shared[j] += popcount(labels[j] & mask)
    for j in range(count):
        bins[j] = bins[j] * levels + min(shared[j], levels - np.uint64(1))


@njit(nogil=True, cache=True, boundscheck=False)
def count_levels(words, first, last, counts):
    """Add to ``counts``, int64 [Q, bits + 1, levels], the items by distance and grade."""
    items, levels = words[1].shape[1], np.uint64(counts.shape[2])
    shared, bins = np.zeros(TILE, np.uint64), np.zeros(TILE, np.uint64)
    for start in range(0, items, TILE):
        count = min(TILE, items - start)
        for row in range(first, last):
            compute_bins(words, row, start, count, levels, shared, bins)
            line = counts[row].reshape(-1)
            for j in range(count):
                line[bins[j]] += 1


@njit(nogil=True, cache=True, boundscheck=False)
def stable_ranks(words, row, items, relevant, ranks):
    """Ranks of the relevant items, from 1 and ascending, into ``ranks``, ties by database row.

    ``items`` and ``relevant``, int64 [bits + 1], are how many are nearer than each distance; both
    are used up. ``ranks`` has one more cell than there are relevant items.
    """
    size = words[1].shape[1]
    shared, bins = np.zeros(TILE, np.uint64), np.zeros(TILE, np.uint64)
    for start in range(0, size, TILE):
        count = min(TILE, size - start)
        compute_bins(words, row, start, count, np.uint64(2), shared, bins)
        for j in range(count):
            distance, hit = bins[j] >> np.uint64(1), np.int64(bins[j] & np.uint64(1))
            items[distance] += 1
            following = relevant[distance]
            # written in either case: a branch would be guessed wrong every few items
            ranks[following] = items[distance] if hit else ranks[following]
            relevant[distance] = following + hit


@dataclass(frozen=True)
class Blocks:
    """Queries, filled up with an idle one to an even number, and database in one layout.

    ``database`` is uint8 [blocks, planes, 64], ``codes`` uint8 [Q, planes], labels after codes in
    both. Even codes are blocks ``parts[0]`` to ``parts[1]``, odd ones go on to ``parts[2]``;
    ``idle`` items of code 0 fill up each part's last block. ``odd``, int64 [Q], is 1 for an odd
    query.
    """

    database: Bytes
    parts: Int64s
    idle: Int64s
    codes: Bytes
    odd: Int64s
    code_planes: int

    @staticmethod
    def of(words: WordArrays) -> "Blocks":
        """Lay out codes and label masks."""
        query, database, query_labels, database_labels = words
        code_planes = _used_planes(query, database, CODE_PLANES)
        widths = [code_planes, _used_planes(query_labels, database_labels, LABEL_PLANES)]
        codes = _joined_bytes(query, query_labels, widths, len(query) + len(query) % 2)
        odd = np.zeros(len(codes), dtype=np.int64)
        odd[: len(query)] = popcounts(query) & 1
        parity = popcounts(database) & 1
        rows = [np.flatnonzero(parity == part) for part in range(2)]
        parts = np.cumsum([0] + [-(-len(some) // ITEMS) for some in rows])
        shape = int(parts[2]), sum(widths), ITEMS
        blocks = aligned_zeros(shape, np.uint8)
        for part, some in enumerate(rows):
            target = blocks[parts[part] : parts[part + 1]]
            items = ITEMS * len(target)
            octets = _joined_bytes(database[some], database_labels[some], widths, items)
            target[:] = octets.reshape(len(target), ITEMS, shape[1]).transpose(0, 2, 1)
        idle = np.diff(parts) * ITEMS - [len(some) for some in rows]
        return Blocks(blocks, parts, idle, codes, odd, code_planes)


def aligned_zeros(shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that begin at a cache line: a vector of 64 bytes then never lies across two."""
    dtype = np.dtype(kind)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _used_planes(first: Words, second: Words, group: int) -> int:
    """Planes up to the last that is not zero throughout, at least one, a multiple of ``group``."""
    whole = np.bitwise_or.reduce(first, axis=0) | np.bitwise_or.reduce(second, axis=0)
    used = np.flatnonzero(whole.view(np.uint8))
    return -(-(int(used[-1]) + 1 if len(used) else 1) // group) * group


def _joined_bytes(words: Words, labels: Words, widths: list[int], rows: int) -> Bytes:
    """Bytes of codes and of label masks, ``widths`` of them, side by side, then idle rows."""
    joined = np.zeros((rows, sum(widths)), dtype=np.uint8)
    for start, width, source in ((0, widths[0], words), (widths[0], widths[1], labels)):
        octets = np.ascontiguousarray(source).view(np.uint8)[:, :width]
        joined[: len(words), start : start + octets.shape[1]] = octets
    return joined


def count_rows(laid: Blocks, bits: int, first: int, last: int, counts: Int64s) -> None:
    """Add queries ``first`` to ``last``, an even number, to ``counts``, int64 [Q, bits + 2, 2].

    For codes below 256 bits: half a distance and the relevance then fit a byte.
    """
    bins = 2 * (bits // 2 + 1)
    shapes = ((bins * bins,), (RING, ITEMS), (laid.codes.shape[1], 2, ITEMS))
    scratch = tuple(map(aligned_zeros, shapes, (np.uint16, np.uint16, np.uint8)))
    head = (laid.database, laid.parts, laid.idle, laid.codes, laid.odd)
    count_pairs(*head, laid.code_planes, bins, first, last, counts, scratch)


_OCTETS = ir.VectorType(ir.IntType(8), ITEMS)
_CELLS = ir.VectorType(ir.IntType(16), ITEMS)


def _constant(value):
    return ir.Constant(_OCTETS, [value] * ITEMS)


def _data(context, builder, kind, array):
    return context.make_array(kind)(context, builder, array).data


def _octets(builder, data, plane):
    """Load row ``plane`` of bytes [planes, 64]."""
    place = builder.gep(data, [builder.mul(plane, plane.type(ITEMS))])
    return builder.load(builder.bitcast(place, _OCTETS.as_pointer()), align=1)


@intrinsic
def compute_cells(typing_context, database, block, queries, code_planes, bins, cells, slot):
    """Write the cell numbers of a block's 64 items to row ``slot`` of ``cells``, uint16 [RING, 64].

    ``database`` is uint8 [blocks, planes, 64], ``queries`` uint8 [planes, 2, 64]: each byte of
    both, 64 times over.
    """
    signature = types.void(database, types.intp, queries, types.intp, types.intp, cells, types.intp)

    def emit(context, builder, signature, arguments):
        database, block, _, code_planes, bins, cells, slot = arguments
        integer = block.type
        shape = context.make_array(signature.args[0])(context, builder, database).shape
        planes = cgutils.unpack_tuple(builder, shape)[1]
        items, masks = (_data(context, builder, signature.args[i], arguments[i]) for i in (0, 2))
        first = builder.mul(block, planes)
        kind = ir.FunctionType(_OCTETS, [_OCTETS])
        popcount = cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.v{ITEMS}i8")
        near, shared = ([cgutils.alloca_once(builder, _OCTETS) for _ in range(2)] for _ in range(2))
        for total in near + shared:
            builder.store(_constant(0), total)

        def each_plane(start, stop, group, totals, use):
            with cgutils.for_range_slice(builder, start, stop, integer(group)) as (at, _):
                sums = [builder.load(total) for total in totals]
                for plane in (builder.add(at, integer(i)) for i in range(group)):
                    word = _octets(builder, items, builder.add(first, plane))
                    for side in range(2):
                        row = builder.add(builder.mul(plane, integer(2)), integer(side))
                        sums[side] = use(sums[side], word, _octets(builder, masks, row))
                for value, total in zip(sums, totals, strict=True):
                    builder.store(value, total)

        def add_distance(total, word, code):
            return builder.add(total, builder.call(popcount, [builder.xor(word, code)]))

        def add_shared(total, word, mask):
            return builder.or_(total, builder.and_(word, mask))

        each_plane(integer(0), code_planes, CODE_PLANES, near, add_distance)
        each_plane(code_planes, planes, LABEL_PLANES, shared, add_shared)

        def bin_of(distance, labels):
            relevant = builder.icmp_unsigned("!=", builder.load(labels), _constant(0))
            # in place of the lowest bit, the parity, which all items have in common
            half = builder.and_(builder.load(distance), _constant(254))
            return builder.zext(builder.or_(half, builder.zext(relevant, _OCTETS)), _CELLS)

        mine, its = map(bin_of, near, shared)
        nothing, index = ir.Constant(_CELLS, ir.Undefined), ir.IntType(32)
        width = builder.insert_element(nothing, builder.trunc(bins, ir.IntType(16)), index(0))
        first_of_all = ir.Constant(ir.VectorType(index, ITEMS), [0] * ITEMS)
        width = builder.shuffle_vector(width, nothing, first_of_all)
        data = _data(context, builder, signature.args[5], cells)
        place = builder.gep(data, [builder.mul(slot, integer(ITEMS))])
        value = builder.add(builder.mul(mine, width), its)
        builder.store(value, builder.bitcast(place, _CELLS.as_pointer()), align=2)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def count_cells(typing_context, table, cells, slot):
    """Count row ``slot`` of ``cells`` in ``table``, uint16: 64 increments in a row.

    A loop would cost a branch misprediction a block, which discards speculative work.
    """

    def emit(context, builder, signature, arguments):
        _, _, slot = arguments
        table, cells = (_data(context, builder, signature.args[i], arguments[i]) for i in range(2))
        first = builder.mul(slot, slot.type(ITEMS))
        for item in range(ITEMS):
            cell = builder.load(builder.gep(cells, [builder.add(first, slot.type(item))]))
            place = builder.gep(table, [builder.zext(cell, slot.type)])
            builder.store(builder.add(builder.load(place), cell.type(1)), place)
        return context.get_dummy_value()

    return types.void(table, cells, types.intp), emit


@njit(nogil=True, cache=True, boundscheck=False)
def count_pair(database, first, last, idle, queries, code_planes, bins, table, cells):
    """Count blocks ``first`` to ``last`` in a joint table, but not the last's ``idle`` items."""
    wide_vectors()
    lag = min(LAG, last - first)
    for block in range(first, first + lag):
        compute_cells(database, block, queries, code_planes, bins, cells, block & (RING - 1))
    for block in range(first + lag, last):
        compute_cells(database, block, queries, code_planes, bins, cells, block & (RING - 1))
        count_cells(table, cells, (block - lag) & (RING - 1))
    for block in range(last - lag, last):
        count_cells(table, cells, block & (RING - 1))
    # idle items are equal, and the last one of a block that has any is idle
    table[cells[(last - 1) & (RING - 1), ITEMS - 1]] -= np.uint16(idle)


@njit(nogil=True, cache=True, boundscheck=False)
def empty_into(table, bins, parities, columns, ours, theirs):
    """Add a joint table's sums over columns and rows to two queries' counts, and zero the table."""
    wide_vectors()
    columns[:] = np.uint32(0)
    for mine in range(bins):
        line = table[mine * bins : (mine + 1) * bins]
        total = np.uint32(0)
        for its in range(bins):
            value = np.uint32(line[its])
            total += value
            columns[its] += value
            line[its] = np.uint16(0)
        ours[(mine & ~1) + parities[0], mine & 1] += total
    for its in range(bins):
        theirs[(its & ~1) + parities[1], its & 1] += columns[its]


@njit(nogil=True, cache=True, boundscheck=False)
def count_pairs(database, parts, idle, codes, odd, code_planes, bins, first, last, counts, scratch):
    """Add queries ``first`` to ``last``, an even number, to ``counts``, int64 [Q, bits + 2, 2].

    Part p of the database is blocks ``parts[p]`` to ``parts[p + 1]``. ``codes``, uint8 [Q, planes],
    has the labels too.
    """
    table, cells, queries = scratch
    columns = np.zeros(bins, np.uint32)
    parities = np.zeros(2, np.int64)
    for part in range(2):
        # outside the loop over queries: these blocks stay in the second-level cache
        for begin in range(parts[part], parts[part + 1], FLUSH):
            end = min(parts[part + 1], begin + FLUSH)
            filling = idle[part] if end == parts[part + 1] else 0
            for row in range(first, last, 2):
                for side in range(2):
                    parities[side] = (odd[row + side] + part) & 1
                    for plane in range(codes.shape[1]):
                        queries[plane, side, :] = codes[row + side, plane]
                count_pair(database, begin, end, filling, queries, code_planes, bins, table, cells)
                empty_into(table, bins, parities, columns, counts[row], counts[row + 1])
