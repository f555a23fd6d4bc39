"""Stage I with every value as published, known faults included; see `configs/vqgan.py`.

`beta` weights the codebook term, LPIPS inputs are normalised twice, the codebook starts from
U(+-1/K), the moving average has no warm-up, BatchNorm statistics and adaptive weight are those of
each of 8 GPUs. With `model.quantizer=gumbel` codes are soft mixtures in training and hard ones in
evaluation, at a temperature of 1 throughout.
"""

import ml_collections

from configs import vqgan


def get_config() -> ml_collections.ConfigDict:
    config = vqgan.get_config().unlock()
    config.model.beta_on = "codebook"
    config.model.straight_through = False
    config.model.kl_weight = 1e-8
    config.loss.lpips_normalize_twice = True
    config.loss.statistics_groups = 8
    config.codebook_init = "uniform"
    config.ema_warmup = False
    return config.lock()
