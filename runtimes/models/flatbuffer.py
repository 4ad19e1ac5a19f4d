"""Flatbuffers read strictly, without the flatbuffers package: tables, vectors, texts, each within the bytes that are there.

Owns: Buffer, Table: bounds, a budget of what may be walked over, the refusal of fields that a schema does not name. Does not own: any
schema (ort_format.py). Several places may point at the same bytes, so that a small file can look endless: hence the budget.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from struct import Struct

from runtimes.errors import UserError

MOST_PARTS = 1_000_000  # tables, elements of vectors and pieces of texts of all messages together
PIECE = 64  # bytes of a text that count as one part
FORMS = {form: Struct(form) for form in ("<b", "<B", "<H", "<i", "<I", "<q")}


class Buffer:
    """The bytes of one file, and how much of it may still be walked over."""

    def __init__(self, data: bytes) -> None:
        self.data, self.left = memoryview(data), MOST_PARTS
        self.texts, self.vtables = dict[int, str](), dict[int, tuple[int, tuple[int, ...]]]()  # many places share one

    def number(self, form: str, place: int) -> int:
        """One little-endian number."""
        if place < 0:
            raise UserError("it is cut short, or points outside itself")
        try:
            value: int = FORMS[form].unpack_from(self.data, place)[0]
        except struct.error:
            raise UserError("it is cut short, or points outside itself") from None
        return value

    def spend(self, parts: int) -> None:
        """Count what is walked over."""
        self.left -= parts
        if self.left < 0:
            raise UserError(f"more than {MOST_PARTS:,} parts, which no network has")

    def follow(self, place: int) -> int:
        """Where an offset points to."""
        distance = self.number("<I", place)
        if distance == 0:
            raise UserError("an offset in it points at itself")
        return place + distance

    def vtable(self, start: int) -> tuple[int, tuple[int, ...]]:
        """How long a table of this kind is, and where its fields lie in it, 0 for those that are absent."""
        if start not in self.vtables:
            size, length = self.number("<H", start), self.number("<H", start + 2)
            if size < 4 or size % 2 or length < 4 or start + size > len(self.data):
                raise UserError("a table in it is cut short")
            self.spend(size)
            self.vtables[start] = length, tuple(offset for (offset,) in FORMS["<H"].iter_unpack(self.data[start + 4:start + size]))
        return self.vtables[start]

    def text(self, place: int) -> str:
        """The text at a place."""
        if place not in self.texts:
            length = self.number("<I", place)
            self.spend(1 + length // PIECE)
            if place + 4 + length > len(self.data):
                raise UserError("a text in it is longer than the file")
            try:
                self.texts[place] = str(self.data[place + 4:place + 4 + length], "utf-8")
            except UnicodeDecodeError:
                raise UserError("a text in it is not UTF-8") from None
        return self.texts[place]

    def root(self, identifier: bytes) -> Table:
        """The table that a file begins with; UserError where it is another kind of file."""
        if bytes(self.data[4:8]) != identifier:
            raise UserError(f"it is no file of kind {identifier.decode('ascii')}")
        return Table(self, self.follow(0))


class Table:
    """One table: its fields by their number in the schema, which is checked against the vtable."""

    def __init__(self, buffer: Buffer, place: int) -> None:
        self.buffer, self.place = buffer, place
        buffer.spend(1)
        self.size, self.offsets = buffer.vtable(place - buffer.number("<i", place))
        if place + self.size > len(buffer.data):
            raise UserError("a table in it is cut short")

    def only(self, name: str, fields: Collection[int]) -> Table:
        """The same table, after any field beyond these was refused."""
        for field, offset in enumerate(self.offsets):
            if offset and field not in fields:
                raise UserError(f"it holds field {field} of a {name}, which rd-export never writes")
        return self

    def _at(self, field: int, size: int) -> int | None:
        offset = self.offsets[field] if field < len(self.offsets) else 0
        if offset and offset + size > self.size:
            raise UserError("a table in it is cut short")
        return self.place + offset if offset else None

    def number(self, field: int, form: str = "<i", default: int = 0) -> int:
        """A whole number."""
        place = self._at(field, FORMS[form].size)
        return default if place is None else self.buffer.number(form, place)

    def real(self, field: int) -> float:
        """A float32."""
        place = self._at(field, 4)
        return 0.0 if place is None else float(struct.unpack_from("<f", self.buffer.data, place)[0])

    def vector(self, field: int, width: int) -> memoryview:
        """The bytes of a vector of elements of `width` bytes; empty where it is absent."""
        place = self._at(field, 4)
        if place is None:
            return self.buffer.data[:0]
        start = self.buffer.follow(place)
        length = self.buffer.number("<I", start) * width
        if start + 4 + length > len(self.buffer.data):
            raise UserError("a vector in it is longer than the file")
        return self.buffer.data[start + 4:start + 4 + length]

    def numbers(self, field: int, form: str) -> list[int]:
        """A vector of whole numbers."""
        values = self.vector(field, FORMS[form].size)
        self.buffer.spend(len(values) // FORMS[form].size)
        return [value for (value,) in FORMS[form].iter_unpack(values)]

    def places(self, field: int) -> list[int]:
        """Where the elements of a vector of offsets lie."""
        place = self._at(field, 4)
        if place is None:
            return []
        start, distances = self.buffer.follow(place) + 4, self.numbers(field, "<I")
        if 0 in distances:
            raise UserError("an offset in it points at itself")
        return [start + 4 * at + distance for at, distance in enumerate(distances)]

    def table(self, field: int) -> Table | None:
        """The table that a field points to."""
        place = self._at(field, 4)
        return None if place is None else Table(self.buffer, self.buffer.follow(place))

    def tables(self, field: int) -> list[Table]:
        """A vector of tables."""
        return [Table(self.buffer, place) for place in self.places(field)]

    def text(self, field: int) -> str:
        """A text; empty where it is absent."""
        place = self._at(field, 4)
        return "" if place is None else self.buffer.text(self.buffer.follow(place))

    def texts(self, field: int) -> list[str]:
        """A vector of texts."""
        return [self.buffer.text(place) for place in self.places(field)]
