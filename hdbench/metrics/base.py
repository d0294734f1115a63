"""What a metric is: an estimate with the influence of each sample, and the class that makes it."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from scipy import special
from torch import Tensor

from hdbench.metrics.design import INDEPENDENT, Design

if TYPE_CHECKING:
    from hdbench.datasets.base import Dataset

T = TypeVar("T")
Z = 1.96  # standard errors on either side of a 95% interval
MAIN = "main"  # the features of the protocol's own network


class Estimate(NamedTuple):
    """A value, and how each of the N samples, which are random, moves it.

    A metric gives `value` and `influence`, IF_i, as if the samples were drawn independently: the
    value moves as the mean of IF_i does.  `measure_metrics` adds the `design`, how they were drawn,
    and from both comes the standard error; that of a difference of two models on the same noises is
    the one of the paired differences of their influences.
    """

    value: float
    influence: np.ndarray  # (N,) float64, mean about 0; NaN where unknown
    reference_error: float | None = None  # what the reference's own draw adds to it, where known
    rows: np.ndarray | None = None  # (N,) int64: which samples it is of; None: all of them
    design: Design = INDEPENDENT  # of these N samples
    units: float | None = None  # independent ones that a share is worth; None: the design's

    @property
    def standard_error(self) -> float:
        """Given the reference; under the design."""
        return self.design.standard_error(self.influence)

    @property
    def joint_standard_error(self) -> float | None:
        """With samples *and* reference random, where known."""
        if self.reference_error is None:
            return None
        return math.hypot(self.standard_error, self.reference_error)

    def scaled(self, factor: float) -> Estimate:
        """The estimate times a factor over 0."""
        added = None if self.reference_error is None else factor * self.reference_error
        return self._replace(
            value=factor * self.value, influence=factor * self.influence, reference_error=added
        )

    def with_standard_error(self, error: float) -> Estimate:
        """The same influences scaled to this standard error; left alone where they do not vary."""
        unscaled = self.standard_error
        if unscaled == 0:
            return self
        return self._replace(influence=self.influence * (error / unscaled))


def mean(values: np.ndarray) -> Estimate:
    """The mean of values (N,), each its own influence."""
    values = np.asarray(values, dtype=np.float64)
    return Estimate(float(values.mean()), values - values.mean())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the metrics, as a protocol or a suite has them."""

    neighbours: int = 3  # k of precision and recall
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    score_splits: Literal["shuffled_10", "consecutive_5000"] = "shuffled_10"
    intervals: bool = True  # standard errors of Frechet distances, which take a little longer
    device: torch.device = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class View:
    """N samples, and M real images, as one layer of one network sees them."""

    features: np.ndarray  # (N, d) float32
    reference: np.ndarray | None = None  # (M, d) float32
    statistics: Any = None  # GaussianReference of the real images


@dataclass(frozen=True, kw_only=True)
class MetricInput:
    """N samples and what they are compared with; None or empty is what a protocol does not have.

    `features` are those of the protocol's main network: of the suite's own classifier, or the main
    layer of its first extractor.  `reference` are those that they are compared with: of M = N
    images of train, or of the images that the protocol names.  `real` has for each of "train",
    "held_out" and "test" the arrays `<set>_features` (N, d), `<set>_bands` (N, bands) and
    `<set>_rings` (H/2,), see `hdbench.evaluation.classifier.reference_arrays`.
    """

    features: np.ndarray | None = None  # (N, d), any float; distances are taken in this dtype
    reference: np.ndarray | None = None  # (M, d)
    settings: Settings = Settings()
    design: Design = INDEPENDENT  # how the samples were drawn

    captions: Sequence[Mapping[str, Any]] = ()  # N: "category" and "held_out" of each sample
    real_captions: Sequence[Mapping[str, Any]] = ()  # M: those of the reference, or of test
    clip: tuple[np.ndarray, np.ndarray] | None = None  # (N, d) of images and of their prompts

    # of the protocol `classifier`
    images: Tensor | None = None  # (N, C, H, W) uint8
    wanted: np.ndarray | None = None  # (N,) or (N, A) int64: classes that each image should show
    probabilities: np.ndarray | None = None  # (N, classes) float32; attributes side by side
    attributes: tuple[int, ...] = ()  # numbers of classes of these attributes
    real: Mapping[str, np.ndarray] = field(default_factory=dict)  # of reference.npz
    real_split: str | None = None  # the samples are themselves this part of `real`
    # images (N, C, H, W) uint8 and features (N, d) of the teacher from the same noises and labels
    teacher: tuple[Tensor, np.ndarray] | None = None
    data: Dataset | None = None
    # images (N, C, H, W) float32 in [-1, 1] -> features (N, d), probabilities (N, classes), float32
    network: Callable[[Tensor], tuple[np.ndarray, np.ndarray]] | None = None

    # (N,) float64, what a benchmark's own scorer said; captions hold its tasks as categories
    scores: np.ndarray | None = None

    # of protocols with extractors: by "EXTRACTOR.LAYER" and, for its network's first extractor, by
    # "NETWORK.LAYER"
    views: Mapping[str, View] = field(default_factory=dict)
    logits: np.ndarray | None = None  # (N, 1008) of Inception

    _results: dict[tuple, Any] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """N."""
        views = (view.features for view in self.views.values())
        clip = None if self.clip is None else self.clip[0]
        given = (self.features, self.images, self.scores, clip, *views)
        return next(len(array) for array in given if array is not None)

    def tensors(self, view: str = MAIN) -> tuple[Tensor, Tensor]:
        """Features (N, d) and those of the reference (M, d) of a view, on the settings' device."""
        seen = self if view == MAIN else self.views[view]
        arrays = (seen.features, seen.reference)
        x, y = (torch.from_numpy(array).to(self.settings.device) for array in arrays)
        return x, y

    def once(self, function: Callable[..., T], *arguments: Any) -> T:
        """function(self, *arguments), computed once for all the metrics that need it."""
        key = (function, *arguments)
        if key not in self._results:
            self._results[key] = function(self, *arguments)
        return self._results[key]

    def rows_of(self, key: str, value: Any) -> tuple[np.ndarray, ...]:
        """Rows of the samples and of the reference whose captions have this value; int64."""
        return tuple(
            np.flatnonzero([caption.get(key) == value for caption in captions])
            for captions in (self.captions, self.real_captions)
        )

    def categories(self) -> list[str]:
        """The samples' categories, sorted."""
        return sorted({row["category"] for row in self.captions if row.get("category")})


class Metric(ABC):
    """One metric, or a family of metrics whose names differ in one place; it holds no state.

    A subclass sets `name` (a family: with a placeholder, as `power_band{n}`) and `title`, and
    defines `measure`.  Numbers appear in results as `<name>_<N>`, so a name says nothing about N.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # for tables: "FD train"
    better: ClassVar[Literal["lower", "higher"] | None] = None
    counted: ClassVar[bool] = False  # whether tables have N in its title
    low: ClassVar[float] = -math.inf  # smallest and largest possible values
    high: ClassVar[float] = math.inf
    version: ClassVar[int] = 1  # raise it when the value or its error changes for the same samples
    group: ClassVar[str]  # metrics of one group share an artifact; by default a group of its own
    # what decides the value: MAIN, or "NETWORK.LAYER" or "EXTRACTOR.LAYER" of an extractor
    reads: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[Literal["statistics", "features"] | None] = None  # of the reference
    paired: ClassVar[bool] = False  # compares with the teacher's samples, pair by pair

    def __init_subclass__(cls, group: str = "", **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.group = group or cls.__dict__.get("group") or cls.__dict__.get("name", "")

    @classmethod
    def is_family(cls) -> bool:
        """Whether the name stands for several metrics."""
        return "{" in cls.name

    @abstractmethod
    def measure(self, sample: MetricInput) -> dict[str, Estimate]:
        """The metric by its name, or a family's members by theirs; {} where it has no meaning.

        Influences are of the N samples in their order.
        """

    @classmethod
    def least(cls, settings: Settings) -> tuple[int, str]:
        """The fewest samples that the metric can be computed for, and what for: "an interval"."""
        return 2, "an interval"

    @classmethod
    def matches(cls, name: str) -> bool:
        """Whether a name, with or without its count, is this metric's or one of its family."""
        pattern = re.sub(r"\\\{[^}]*\\\}", ".+", re.escape(cls.name))
        return re.fullmatch(rf"{pattern}(_\d+k?)?", name) is not None

    @classmethod
    def title_of(cls, name: str) -> str:
        """The title of one of its names without a count: a family's placeholder is filled in."""
        pattern = re.sub(r"\\\{([^}]*)\\\}", r"(?P<\1>.+)", re.escape(cls.name))
        filled = re.fullmatch(pattern, name)
        return cls.title.format(**filled.groupdict()) if filled else cls.title

    @classmethod
    def error(cls, estimate: Estimate) -> float:
        """The standard error that is written with the value."""
        return estimate.standard_error

    @classmethod
    def limits(cls, value: float, error: float, degrees: float = math.inf) -> tuple[float, float]:
        """95% interval of one set of samples, within what is possible; NaN without an error.

        Student's, of the error's degrees of freedom: see `Design.degrees`.
        """
        half = (Z if math.isinf(degrees) else float(special.stdtrit(degrees, 0.975))) * error
        return max(value - half, cls.low), min(value + half, cls.high)

    @classmethod
    def is_possible(cls, value: float) -> bool:
        """Whether the metric can have this value."""
        return cls.low <= value <= cls.high


class Share(Metric):
    """A metric that is a share of something good, or (`high` infinite) a mean count of it.

    Near 0 and 1 a normal interval covers less than it says, and at them it is empty.  So intervals
    are Clopper and Pearson's (Biometrika 26, 1934), of counts Garwood's (Biometrika 28, 1936), of
    as many independent samples as the error is worth, V(value) / error^2 for V(v) = v (1 - v), or v
    of counts.  These cover at least what they say: 95 to 97% in the middle, up to 99.9% where fewer
    than three samples are counted or left out.
    """

    better = "higher"
    low = 0.0
    high = 1.0
    version = 2  # in the first, the error at 0 and 1 was another interval's

    @classmethod
    def error(cls, estimate: Estimate) -> float:
        """At 0 or 1, where no sample differs, that whose Z-fold is the exact interval."""
        error = estimate.standard_error
        if error or estimate.value not in (cls.low, cls.high):
            return error
        units = estimate.units or len(estimate.design.units(len(estimate.influence))[1])
        low, high = cls._exact(estimate.value, units)
        return (high - low) / Z

    @classmethod
    def limits(cls, value: float, error: float, degrees: float = math.inf) -> tuple[float, float]:
        if not (0 < value < cls.high and error > 0):
            return super().limits(value, error)
        return cls._exact(value, value * (1 - value / cls.high) / error**2)

    @classmethod
    def _exact(cls, value: float, units: float) -> tuple[float, float]:
        """Of a share, or mean count, of `units` independent samples, any number over 0."""
        seen = value * units
        if math.isinf(cls.high):
            low = special.gammaincinv(seen, 0.025) if seen else 0.0
            return float(low / units), float(special.gammaincinv(seen + 1, 0.975) / units)
        rest = units - seen
        low = special.betaincinv(seen, rest + 1, 0.025) if seen else 0.0
        high = special.betaincinv(seen + 1, rest, 0.975) if rest else 1.0
        return float(low), float(high)
