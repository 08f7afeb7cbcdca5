"""How many accumulator bits a network needs: equations, measurements, plans."""

from tf_lowprec.analysis.measured import Measurement, measured_vrr
from tf_lowprec.analysis.minimum import minimum_mantissa
from tf_lowprec.analysis.noise import best_chunk, rounding_noise, truncation_vrr
from tf_lowprec.analysis.observe import Observation, Observations, observe
from tf_lowprec.analysis.plan import Plan, PlannedSum
from tf_lowprec.analysis.planner import plan
from tf_lowprec.analysis.promotion import (
    PromotedSum,
    PromotionPlan,
    aligned_loss,
    aligned_noise,
)
from tf_lowprec.analysis.saved_model import plan_saved_model
from tf_lowprec.analysis.search import SearchResult, Trial, search, total_bits
from tf_lowprec.analysis.vrr import CUTOFF, variance_lost, vrr, vrr_chunked, vrr_loss

__all__ = [
    "CUTOFF",
    "Measurement",
    "Observation",
    "Observations",
    "Plan",
    "PlannedSum",
    "PromotedSum",
    "PromotionPlan",
    "SearchResult",
    "Trial",
    "aligned_loss",
    "aligned_noise",
    "best_chunk",
    "measured_vrr",
    "minimum_mantissa",
    "observe",
    "plan",
    "plan_saved_model",
    "rounding_noise",
    "search",
    "total_bits",
    "truncation_vrr",
    "variance_lost",
    "vrr",
    "vrr_chunked",
    "vrr_loss",
]
