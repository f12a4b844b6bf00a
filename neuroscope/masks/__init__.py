"""Scores and masks: one number per neuron, a set of neurons, and how sets overlap."""

from neuroscope.masks.draws import DRAWN, Match
from neuroscope.masks.evidence_card import EvidenceCard
from neuroscope.masks.mask_overlap import overlap, overlap_sweep
from neuroscope.masks.neuron_mask import Masks, NeuronMask, check_mask, is_one_mask, mask_for, masks_of
from neuroscope.masks.overlap_clusters import OverlapClusters
from neuroscope.masks.overlap_results import Overlap, OverlapSweep
from neuroscope.masks.per_neuron import read_safetensors, shape
from neuroscope.masks.reading_masks import load_mask
from neuroscope.masks.score_diagnostics import ScoreDiagnostics
from neuroscope.masks.scores import Scores, scores_of

__all__ = [
    "DRAWN",
    "EvidenceCard",
    "Masks",
    "Match",
    "NeuronMask",
    "Overlap",
    "OverlapClusters",
    "OverlapSweep",
    "ScoreDiagnostics",
    "Scores",
    "check_mask",
    "is_one_mask",
    "load_mask",
    "mask_for",
    "masks_of",
    "overlap",
    "overlap_sweep",
    "read_safetensors",
    "scores_of",
    "shape",
]
