"""Stage III with the published values but for the schedule; see `configs/codeformer_stage3.py`.

LPIPS inputs are normalised twice, fusion blocks start at random, also where stage II made them at
zero, and momentum moves them in steps without image losses; the moving average has no warm-up,
BatchNorm statistics and adaptive weight are those of each of 8 GPUs. The schedule stays the
corrected one: the published one fails at step 120,000. So does the check of the teacher, which no
published run would have passed.
"""

import ml_collections

from configs import codeformer_stage3


def get_config() -> ml_collections.ConfigDict:
    config = codeformer_stage3.get_config().unlock()
    config.codeformer.fusion_zero_init = False
    config.loss.lpips_normalize_twice = True
    config.loss.statistics_groups = 8
    config.optimizer.advance = "all"
    config.ema_warmup = False
    return config.lock()
