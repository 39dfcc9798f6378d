"""Objectives, one a module, and the registry of them.

To add one: write its module with an `Options` dataclass, a loss and a `Spec`,
and name the spec here; `config.run` then takes its name.
"""

from scm_jax.objectives import (
  consistency,
  diffusion,
  distribution_matching,
  flow_map,
  mid_training,
  truncated,
  velocity,
)
from scm_jax.objectives.point import Point
from scm_jax.objectives.spec import ExtraNetwork, Options, Spec, Student

OBJECTIVES: dict[str, Spec] = {
  "teacher": diffusion.TEACHER,
  "sct": consistency.SCT,
  "scd": consistency.SCD,
  "ect": consistency.ECT,
  "tcm": truncated.TCM,
  "cmt": mid_training.CMT,
  "ms_scd": flow_map.MULTISTEP,
  "ayf": flow_map.AYF,
  "meanflow": flow_map.MEANFLOW,
  "imf": flow_map.IMF,
  "alphaflow": flow_map.ALPHA_FLOW,
  "facm": flow_map.FACM,
  "scd_vsd": distribution_matching.SCD_VSD,
}

__all__ = [
  "OBJECTIVES",
  "ExtraNetwork",
  "Options",
  "Point",
  "Spec",
  "Student",
  "consistency",
  "diffusion",
  "velocity",
]
