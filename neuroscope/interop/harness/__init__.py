"""lm-evaluation-harness (lm_eval): its tasks on a model of ours, and our masks in its command.

`ns.benchmark` runs its tasks under masks, with controls. Its own commands find models only in their own table, so the
model "neuroscope" is put there by a command of the same arguments:

    python -m neuroscope.interop.harness --model neuroscope \\
        --model_args pretrained=FOLDER,mask=mask.safetensors,value=mean --tasks arc_easy
"""

from neuroscope.interop.harness.lm import harness_model, lm_class, lm_of, refuse_corrupt
from neuroscope.interop.harness.running import (
    HarnessTask,
    Right,
    load_harness_tasks,
    measure,
    metric_of,
    sources_of,
    version,
)

__all__ = [
    "HarnessTask",
    "Right",
    "harness_model",
    "lm_class",
    "lm_of",
    "load_harness_tasks",
    "measure",
    "metric_of",
    "refuse_corrupt",
    "sources_of",
    "version",
]
