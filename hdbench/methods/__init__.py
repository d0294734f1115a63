"""Methods by the field's taxonomy: pretraining, trajectory distillation, distribution matching.

Each is an objective: one class in one file, with its equation, configuration, updates and cost; see
hdbench.methods.base.Objective.
"""

from __future__ import annotations

from hdbench.core.registry import Registry
from hdbench.methods.base import Objective
from hdbench.methods.distribution.adm import ADM
from hdbench.methods.distribution.adversarial import Adversarial
from hdbench.methods.distribution.adversarial_pretraining import AdversarialPretraining
from hdbench.methods.distribution.asd import ASD
from hdbench.methods.distribution.decoupled_dmd import DecoupledDMD
from hdbench.methods.distribution.dmd import DMD
from hdbench.methods.distribution.dmd2 import DMD2
from hdbench.methods.distribution.drifting import Drifting
from hdbench.methods.distribution.embedding_loss import EmbeddingLoss
from hdbench.methods.distribution.f_distill import FDistill
from hdbench.methods.distribution.fake_score_free import FakeScoreFree
from hdbench.methods.distribution.flash_dmd import FlashDMD
from hdbench.methods.distribution.frechet_loss import FrechetLoss
from hdbench.methods.distribution.gdd import GDD
from hdbench.methods.distribution.gndm import GNDM
from hdbench.methods.distribution.ladd import LADD
from hdbench.methods.distribution.sid import SiD
from hdbench.methods.distribution.vsd import VSD
from hdbench.methods.pretraining.autoencoding import Autoencoding
from hdbench.methods.pretraining.contrastive import Contrastive
from hdbench.methods.pretraining.cross_entropy import CrossEntropy
from hdbench.methods.pretraining.flow_matching import FlowMatching
from hdbench.methods.trajectory.boot import Boot
from hdbench.methods.trajectory.consistency import Consistency
from hdbench.methods.trajectory.dual_end import DualEnd
from hdbench.methods.trajectory.guidance_distillation import GuidanceDistillation
from hdbench.methods.trajectory.improved_meanflow import ImprovedMeanFlow
from hdbench.methods.trajectory.knowledge import Knowledge
from hdbench.methods.trajectory.meanflow import MeanFlow
from hdbench.methods.trajectory.progressive import Progressive
from hdbench.methods.trajectory.reflow import Reflow
from hdbench.methods.trajectory.scm import SCM
from hdbench.methods.trajectory.shortcut import Shortcut
from hdbench.methods.trajectory.slam import SLAM
from hdbench.methods.trajectory.stochastic_consistency import StochasticConsistency
from hdbench.methods.trajectory.twinflow import TwinFlow

PRETRAINING = (FlowMatching, CrossEntropy, Contrastive, Autoencoding)
TRAJECTORY = (
    MeanFlow,
    Consistency,
    Knowledge,
    Reflow,
    Progressive,
    Shortcut,
    SCM,
    ImprovedMeanFlow,
    Boot,
    StochasticConsistency,
    SLAM,
    DualEnd,
    GuidanceDistillation,
    TwinFlow,
)
DISTRIBUTION = (
    DMD,
    DMD2,
    DecoupledDMD,
    FDistill,
    VSD,
    SiD,
    Adversarial,
    LADD,
    ADM,
    AdversarialPretraining,
    EmbeddingLoss,
    FlashDMD,
    GNDM,
    GDD,
    FakeScoreFree,
    FrechetLoss,
    Drifting,
    ASD,
)

OBJECTIVES: Registry[Objective] = Registry(
    "hdbench.objectives", Objective, (*PRETRAINING, *TRAJECTORY, *DISTRIBUTION)
)
