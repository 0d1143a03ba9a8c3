"""Batches of examples of like size, shuffled anew every epoch, that can be stopped and resumed at any example."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchd.item import Shape
from batchd.sampler.batch_limit import BatchLimit, ElementBudget, Oversize, capacities, check_limit
from batchd.sampler.bucketing import Bucketing, BucketsWanted, assigned, bucket_shapes
from batchd.sampler.epoch_queues import EpochQueues, Position
from batchd.sampler.example_sizes import IntArray, as_sizes, elements_of
from batchd.sampler.random_order import check_seed, permutation


class _Run(NamedTuple):
    """Examples taken from one bucket, and where the epoch stood before."""

    consumed: int
    entered: int
    bucket: int


class BucketBatchSampler:
    """A batch sampler for `torch.utils.data.DataLoader`, or for a training loop that draws for itself.

    Every epoch, each allowed example comes exactly once. All randomness follows from (seed, epoch, examples consumed);
    so a position is a few integers, and the stream from there on is the same in every process.

    `next_batch` and `draw` move the position. An iteration begins at the position and leaves it alone until it is
    through, because a DataLoader draws ahead of the training: leave a loop early and the next one begins where this one
    did. Who stops in the middle says to `state_dict` how many examples were really used. An iteration that follows a
    finished epoch begins the next.

    For one process: ranks of a distributed run would have to draw global batches and take their shares.
    """

    def __init__(
        self,
        sizes: npt.ArrayLike,
        batch_size: BatchLimit,
        *,
        buckets: BucketsWanted = "auto",
        seed: int = 0,
        multiple: int = 1,
        window: int | None = None,
        difficulty: npt.ArrayLike | None = None,
    ) -> None:
        """Sort examples into buckets by `sizes`, `(n,)` or `(n, 2)`.

        With `buckets=1` it is a plain shuffled sampler. Padded shapes are multiples of `multiple`. With `window`, about
        so many examples of the shuffled order are in the buckets at a time, so that examples are read nearly in that
        order; rare sizes then come late. `difficulty`, `(n,)`, makes `allowed_fraction` available.

        Raises:
            ValueError: an argument makes no sense, or an example exceeds an element budget that refuses such.
        """
        check_limit(batch_size)
        check_seed(seed)
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.seed = seed
        self._sizes = as_sizes(sizes, multiple=multiple)
        self._window = window
        self._rank_by_difficulty = _ranks(difficulty, len(self._sizes))
        shapes = bucket_shapes(self._sizes, buckets, batch_size, multiple=multiple)
        self._bucketing = assigned(self._sizes, shapes)
        self._fraction = self._next_fraction = 1.0
        self._iteration = 0
        self._advances = True
        self.batch_size = batch_size
        self._begin(0)

    # ---- what it is set to -------------------------------------------------------------------------------------------

    @property
    def batch_size(self) -> BatchLimit:
        """The size of batches or their element budget; may be set at any time, also in the middle of an epoch."""
        return self._limit

    @batch_size.setter
    def batch_size(self, limit: BatchLimit) -> None:
        check_limit(limit)
        if isinstance(limit, ElementBudget):
            self._check_oversize(limit)
        self._limit = limit
        self._capacities = capacities(limit, self._bucketing.shapes)

    @property
    def bucket_shapes(self) -> list[Shape]:
        """Return the padded shapes of the buckets, in the order of their elements."""
        return [tuple(shape) for shape in self._bucketing.shapes.tolist()]

    @property
    def allowed_fraction(self) -> float:
        """The share of examples that an epoch is made of, easiest first.

        Setting it changes the epochs that begin thereafter, and the current one where nothing of it has been drawn.
        """
        return self._next_fraction

    @allowed_fraction.setter
    def allowed_fraction(self, fraction: float) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"allowed_fraction must lie above 0 and be at most 1, got {fraction}")
        if self._rank_by_difficulty is None and fraction != 1:
            raise ValueError("allowed_fraction needs the examples' difficulty")
        self._next_fraction = fraction
        if self._queues.consumed == 0:
            self._begin(self.epoch)

    # ---- drawing -----------------------------------------------------------------------------------------------------

    @property
    def consumed(self) -> int:
        """Return the examples of this epoch that have been drawn."""
        return self._queues.consumed

    @property
    def remaining(self) -> int:
        """Return the examples of this epoch that have not been drawn."""
        return self._queues.size - self._queues.consumed

    def next_batch(self, at_most: int | None = None) -> list[int]:
        """Draw a batch from one bucket, of `at_most` examples if that is less than it may hold.

        Empty when the epoch is over; `set_epoch` begins the next.

        Raises:
            ValueError: at_most is below 1.
        """
        batch = self._draw(at_most)
        self._start = self._queues.position
        return batch

    def draw(self, count: int) -> list[int]:
        """Draw `count` examples, a global batch, in runs of at most a batch from one bucket each.

        With a `batch_size` below `count`, a global batch is of several buckets and nearer to a fair sample of the data.
        Fewer examples come at the end of an epoch, none when it is over.

        Raises:
            ValueError: count is below 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        drawn: list[int] = []
        while len(drawn) < count and self.remaining:
            drawn += self.next_batch(count - len(drawn))
        return drawn

    def __iter__(self) -> Iterator[list[int]]:
        if not self.remaining and self._advances:
            self._begin(self.epoch + 1)
        else:
            self._rewind()
        self._advances = True
        self._iteration += 1
        mine = self._iteration
        while batch := self._draw(None):
            yield batch
            if mine != self._iteration:
                raise RuntimeError("another iteration of this sampler has begun")

    def __len__(self) -> int:
        """Return the batches of an iteration that begins at the position, if the batch size stays as it is."""
        position = self._start
        if position.consumed == self._queues.size:
            return int((-(-self._queues.totals // self._capacities)).sum()) if self._advances else 0
        left = self._queues.totals - np.array(position.taken, dtype=np.int64)
        return int((-(-left // self._capacities)).sum())

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`; if that is the current one, its position stays, as after a resume.

        Raises:
            ValueError: it is negative.
        """
        if epoch < 0:
            raise ValueError(f"the epoch must not be negative, got {epoch}")
        if epoch != self.epoch:
            self._begin(epoch)
        self._advances = False

    def padded_shape(self, batch: Sequence[int]) -> Shape:
        """Return the shape of the least bucket that holds every example of `batch`, or what holds them if none does.

        Raises:
            ValueError: the batch is empty.
        """
        if len(batch) == 0:
            raise ValueError("an empty batch has no shape")
        needed = self._sizes[np.asarray(batch)].max(axis=0)
        holding = self._bucketing.shapes[(self._bucketing.shapes >= needed).all(axis=1)]
        return tuple((holding[0] if len(holding) else needed).tolist())

    # ---- stopping and resuming ---------------------------------------------------------------------------------------

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return the position after `consumed` examples of this epoch, all that were drawn by default, as plain values.

        A DataLoader with workers draws ahead, so give the number of examples that training has really used, in the
        order in which they came. Between two batches, what follows is exactly what would have followed; within one, its
        rest returns to its bucket. Batch sizes are no part of the state: a resumed run may use others.

        Raises:
            ValueError: so many have not been drawn since the position.
        """
        position = self._position_at(self.consumed if consumed is None else consumed)
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "consumed": position.consumed,
            "entered": position.entered,
            "taken": list(position.taken),
            "allowed_fraction": self._fraction,
            "next_allowed_fraction": self._next_fraction,
            "bucket_shapes": [list(shape) for shape in self.bucket_shapes],
            "examples": self._fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position that `state_dict` gave, with its seed and its buckets. Nothing changes if it is refused.

        Raises:
            ValueError: it is no such state, or one of other examples.
        """
        try:
            if state["examples"] != self._fingerprint():
                raise ValueError("the state is of other examples: sizes or difficulty differ")
            seed, epoch = int(state["seed"]), int(state["epoch"])
            fraction, next_fraction = float(state["allowed_fraction"]), float(state["next_allowed_fraction"])
            position = Position(int(state["consumed"]), int(state["entered"]), tuple(int(n) for n in state["taken"]))
            bucketing = assigned(self._sizes, as_sizes(state["bucket_shapes"]))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a sampler's state: {error!r}") from None
        check_seed(seed)
        if epoch < 0 or not (0 < fraction <= 1 and 0 < next_fraction <= 1):
            raise ValueError("not a sampler's state: epoch or allowed_fraction out of range")
        queues = self._epoch_queues(bucketing, seed, epoch, fraction)
        queues.restore(position)
        self.seed, self.epoch = seed, epoch
        self._fraction, self._next_fraction = fraction, next_fraction
        self._bucketing, self._queues = bucketing, queues
        self._capacities = capacities(self._limit, bucketing.shapes)
        self._runs: list[_Run] = []
        self._start = position
        self._iteration += 1
        self._advances = True

    # ---- how -------------------------------------------------------------------------------------------------------

    def _draw(self, at_most: int | None) -> list[int]:
        if at_most is not None and at_most < 1:
            raise ValueError(f"at_most must be at least 1, got {at_most}")
        if not self.remaining:
            return []
        allowed = self._capacities if at_most is None else np.minimum(self._capacities, at_most)
        consumed = self._queues.consumed
        bucket = self._queues.choose(allowed, self.seed, self.epoch)
        self._runs.append(_Run(consumed, self._queues.entered, bucket))
        return self._queues.take(bucket, int(allowed[bucket]))

    def _begin(self, epoch: int) -> None:
        self.epoch = epoch
        self._fraction = self._next_fraction
        self._queues = self._epoch_queues(self._bucketing, self.seed, epoch, self._fraction)
        self._runs = []
        self._start = self._queues.position
        self._iteration += 1

    def _rewind(self) -> None:
        self._queues.restore(self._start)
        while self._runs and self._runs[-1].consumed >= self._start.consumed:
            self._runs.pop()

    def _epoch_queues(self, bucketing: Bucketing, seed: int, epoch: int, fraction: float) -> EpochQueues:
        order = permutation(len(self._sizes), seed, epoch)
        if self._rank_by_difficulty is not None:
            allowed = self._rank_by_difficulty < math.ceil(fraction * len(order))
            order = order[allowed[order]]
        return EpochQueues(order, bucketing.member, len(bucketing.shapes), self._window)

    def _position_at(self, consumed: int) -> Position:
        """Undo the runs after `consumed`: queues are first in, first out, so counts are enough."""
        position = self._queues.position
        taken = list(position.taken)
        end, entered = position.consumed, position.entered
        for run in reversed(self._runs):
            if end <= consumed:
                break
            taken[run.bucket] -= end - max(run.consumed, consumed)
            end, entered = run.consumed, run.entered
        if not end <= consumed <= position.consumed:
            raise ValueError(f"consumed must lie between {end} and {position.consumed}, got {consumed}")
        return Position(consumed, entered, tuple(taken))

    def _check_oversize(self, budget: ElementBudget) -> None:
        beyond = int((elements_of(self._sizes) > budget.elements).sum())
        if beyond == 0:
            return
        said = f"{beyond} of {len(self._sizes)} examples exceed the budget of {budget.elements} elements"
        if budget.oversize is Oversize.REFUSE:
            raise ValueError(said)
        warnings.warn(f"{said}; each will be a batch of its own", stacklevel=4)

    def _fingerprint(self) -> str:
        checksum = zlib.crc32(self._sizes.astype("<i8").tobytes())
        if self._rank_by_difficulty is not None:
            checksum = zlib.crc32(self._rank_by_difficulty.astype("<i8").tobytes(), checksum)
        return f"{len(self._sizes)}:{checksum:08x}"


def _ranks(difficulty: npt.ArrayLike | None, count: int) -> IntArray | None:
    """Return the place of every example when sorted by difficulty; equals keep their order."""
    if difficulty is None:
        return None
    values = np.asarray(difficulty, dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(f"difficulty must be one finite number for each of {count} examples")
    ranks = np.empty(count, dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(count)
    return ranks
