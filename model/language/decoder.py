"""Rows of several requests in one token step: they join those under way between two steps, and leave when they end.

Steps of many rows take little longer than steps of one: what is read most is the weights. So nobody waits for another's
answer to end: a request's rows take places in the bucket that is under way, or make it a larger one; when rows have
ended and the rest fits into a smaller bucket, it moves there.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import torch

from model.compute.precision import full_float32
from model.language.buffers import ROWS, Greedy, Shape, bucket
from model.language.by_chance import ByChance
from model.language.grid import Choice, Drawn, Grid, draw
from model.language.resident import Resident

LOOK_EVERY = 4
"""Steps between two looks at which rows have ended: a look waits for all steps before it."""


@dataclass(eq=False)
class Ticket:
    """Rows that were asked for together.

    Attributes:
        lines: where their tokens are written, row by row.
        most: tokens of a row at most.
        begun: the number of the step before their first one.
        drawn: their tokens, when all of them have ended.
        lost: the step failed while they were under way; they have to be asked for again.
    """

    lines: list[int]
    most: int
    begun: int
    drawn: Drawn | None = None
    lost: bool = field(default=False)


@dataclass(frozen=True)
class _Kind:
    """What all rows under way have in common."""

    greedy: Greedy
    ends: tuple[int, ...]
    length: int


class Decoder:
    """Draws answers with a `Resident`. Several threads may ask: whoever waits lets steps be made for all."""

    def __init__(self, resident: Resident) -> None:
        self.resident = resident
        self._lock = threading.RLock()
        self._shape: Shape | None = None
        self._kind: _Kind | None = None
        self._places: list[tuple[Ticket, int] | None] = []  # of the bucket: whose row is there, and its line
        self._free = list(range(ROWS))  # lines
        self._steps = 0
        self._waiting: list[Grid] = []  # for room, the one that waits longest first

    @property
    def rows(self) -> int:
        """Rows that are under way."""
        return sum(place is not None for place in self._places)

    def join(self, grid: Grid, greedy: Greedy, ends: Sequence[int], limits: Sequence[int]) -> Ticket | None:
        """Let a grid's rows begin, at most `limits` tokens for each of its questions; None while there is no room.

        The grid has read the questions and fits into a bucket by itself (`Resident.regions_at_once`). Rows under way
        need the same `greedy`, `ends` and length of prefix: others wait until these are done. Whoever was refused comes
        before all others when it asks again; one that does not has to say so (`give_up`).
        """
        with self._lock, self.resident.own.here(), torch.no_grad(), full_float32:
            if self._waiting and self._waiting[0] is not grid:
                self._wait(grid)
                return None
            try:
                ticket = self._join(grid, greedy, ends, limits)
            except BaseException:
                self._forget()
                raise
            if ticket is None:
                self._wait(grid)
            else:
                self.give_up(grid)
            return ticket

    def _wait(self, grid: Grid) -> None:
        if not any(other is grid for other in self._waiting):
            self._waiting.append(grid)

    def give_up(self, grid: Grid) -> None:
        """A grid does not wait for room any more."""
        with self._lock:
            self._waiting = [other for other in self._waiting if other is not grid]

    def advance(self, steps: int = LOOK_EVERY) -> None:
        """So many steps for all rows under way, at most; then those that have ended leave."""
        with self._lock, self.resident.own.here(), torch.no_grad(), full_float32:
            if self._shape is None:
                return
            try:
                left = max(ticket.most - self._told(ticket) for ticket in self._tickets())
                for _ in range(min(steps, left)):
                    self.resident.run(self._shape, True)
                    self._steps += 1
                self._look()
            except BaseException:
                # a time limit may interrupt it anywhere
                self._forget()
                raise

    def leave(self, ticket: Ticket) -> None:
        """Nobody waits for these rows any more."""
        with self._lock, self.resident.own.here(), torch.no_grad():
            if ticket.drawn is not None or ticket.lost:
                return
            for row, place in enumerate(self._places):
                if place is not None and place[0] is ticket:
                    self._places[row] = None
                    self.resident.state.clear(row, row + 1)
            self._free += ticket.lines
            ticket.lost = True
            if not self.rows:
                self._shape = None

    def by_chance(self, grid: Grid, choose: Choice, ends: Sequence[int], limits: Sequence[int]) -> Drawn:
        """Draw a grid's rows by themselves, as `grid.draw` does, when all others are done."""
        with self._lock:
            while self._shape is not None:
                self.advance()
            with self.resident.own.here(), torch.no_grad(), full_float32:
                return draw(ByChance(self.resident, grid, max(limits)), choose, ends, limits)

    def drawing(
        self, grid: Grid, ends: Sequence[int], limits: Sequence[int], greedy: Greedy
    ) -> Generator[None, None, Drawn]:
        """The tokens of a grid's rows, see `join`; yields where steps have to be made (`advance`), by whomever."""
        try:
            while True:
                ticket = self.join(grid, greedy, ends, limits)
                if ticket is None:
                    yield
                    continue
                try:
                    while ticket.drawn is None and not ticket.lost:
                        yield
                finally:
                    self.leave(ticket)
                if ticket.drawn is not None:
                    return ticket.drawn
        finally:
            self.give_up(grid)

    def _join(self, grid: Grid, greedy: Greedy, ends: Sequence[int], limits: Sequence[int]) -> Ticket | None:
        resident, state = self.resident, self.resident.state
        regions, count, used = grid.prefix.regions, len(grid.hidden), grid.kept.used
        texts, kind = count // regions, _Kind(greedy, tuple(ends), grid.prefix.length)
        alone = resident.shape(regions, texts, grid.prefix.length, used + max(limits))
        assert alone is not None
        if self._shape is None:
            self._shape, self._kind, self._places = alone, kind, [None] * alone.rows
            state.clear(0, alone.rows)
            state.begin(greedy, ends)
        elif kind != self._kind or count > len(self._free) or not self._make_room(regions, alone):
            return None
        shape = self._shape
        empty = [r for r in range(shape.regions) if not any(self._places[r * shape.texts : (r + 1) * shape.texts])]
        chosen = empty[:regions]
        rows = [r * shape.texts + text for r in chosen for text in range(texts)]
        ticket = Ticket(self._free[:count], max(limits), self._steps)
        del self._free[:count]
        for row, line in zip(rows, ticket.lines, strict=True):
            self._places[row] = ticket, line

        def here(numbers: Sequence[int]) -> torch.Tensor:
            return torch.tensor(numbers, device=resident.device)

        at = here(rows)
        resident.take(shape, grid, at, here(chosen))
        pads = (~grid.seen[:, :used]).sum(1)  # on the left of shorter questions
        state.enter(at, here(ticket.lines), here(list(limits) * regions), pads, used)
        state.choose(resident.model, at)
        return ticket

    def _make_room(self, regions: int, alone: Shape) -> bool:
        """A bucket for the rows under way and so many regions more, which alone would have another; False: none."""
        old = self._shape
        assert old is not None
        taken = [r for r in range(old.regions) if any(self._places[r * old.texts : (r + 1) * old.texts])]
        new = Shape(
            max(old.regions, bucket(len(taken) + regions)),
            max(old.texts, alone.texts),
            old.length,
            max(old.room, alone.room),
        )
        if new == old:
            return True
        if not self.resident.fits(new):
            return False
        if (new.texts, new.room) == (old.texts, old.room):
            # the places of those under way stay where they are
            self.resident.state.clear(old.rows, new.rows)
            self._places += [None] * (new.rows - old.rows)
            self._shape = new
        else:
            everywhere = range(old.regions)
            self._lay_out(new, [(r, self._rows_of(r)) for r in everywhere], True)
        return True

    def _rows_of(self, region: int) -> list[int]:
        """The rows under way of a region's place."""
        assert self._shape is not None
        start = region * self._shape.texts
        return [row for row in range(start, start + self._shape.texts) if self._places[row] is not None]

    def _lay_out(self, new: Shape, kept: Sequence[tuple[int, list[int]]], in_place: bool) -> None:
        """Another bucket: of each place of a region that is kept the rows that go on.

        `in_place`: regions keep their places, so that nothing of their prefixes moves.
        """
        old = self._shape
        assert old is not None
        rows: list[int] = []
        places: list[tuple[Ticket, int] | None] = []
        for _, mine in kept:
            # what is left over repeats a row, and has ended
            spare = new.texts - len(mine)
            rows += mine + [mine[0] if mine else 0] * spare
            places += [self._places[row] for row in mine] + [None] * spare
        over = new.rows - len(rows)
        rows, places = rows + [0] * over, places + [None] * over
        sources = [region for region, _ in kept]
        sources += [0] * (new.regions - len(sources))
        device = self.resident.device
        chosen = torch.tensor(rows, device=device)
        self.resident.move(old, new, chosen, None if in_place else torch.tensor(sources, device=device))
        fresh = torch.tensor([place is not None for place in places], device=device)
        self.resident.state.move(new, chosen, fresh)
        self._places, self._shape = places, new

    def _look(self) -> None:
        """Tickets whose rows have all ended get their tokens; the rest moves to a smaller bucket if it fits."""
        old = self._shape
        assert old is not None
        ended = self.resident.state.ended[: old.rows].tolist()
        before = self._tickets()
        for row, over in enumerate(ended):
            if over:
                self._places[row] = None
        going = set(map(id, self._tickets()))
        for ticket in before:
            if id(ticket) not in going:
                self._collect(ticket)
        if not going:
            self._shape = None
            return
        live = [(r, mine) for r in range(old.regions) if (mine := self._rows_of(r))]
        new = Shape(bucket(len(live)), bucket(max(len(mine) for _, mine in live)), old.length, old.room)
        if new.rows >= old.rows:
            return
        in_place = new.regions == old.regions  # a prefix is much to move
        self._lay_out(new, [(r, self._rows_of(r)) for r in range(old.regions)] if in_place else live, in_place)

    def _tickets(self) -> list[Ticket]:
        """Under way, each once."""
        return list({id(place[0]): place[0] for place in self._places if place is not None}.values())

    def _told(self, ticket: Ticket) -> int:
        """Tokens of each row so far: one when it joins, one a step."""
        return self._steps - ticket.begun + 1

    def _collect(self, ticket: Ticket) -> None:
        state, count = self.resident.state, min(ticket.most, self._told(ticket))
        lines = torch.tensor(ticket.lines, device=self.resident.device)
        # indexing copies, also on the CPU
        ticket.drawn = Drawn(state.ids[lines, :count].cpu(), state.logprobs[lines, :count].cpu())
        self._free += ticket.lines

    def _forget(self) -> None:
        """Something failed half-way: who waits has to ask again."""
        for ticket in self._tickets():
            ticket.lost = True
        self._shape, self._places, self._free = None, [], list(range(ROWS))
