"""Colorization: stage II with colours that are shifted, jittered or taken away, 512 px.

    python train.py --config=configs/codeformer_colorization.py --workdir=runs/colorization \
        --config.init_from=runs/stage2 --config.data.path=FFHQ_DIR

The recipe `large` has colour corruptions besides: a shift of each channel, gray, and brightness,
contrast, saturation and hue in random order. The rest is stage II's, so that the network is used at
w = 0; restore with `-w 0`. Results of black-and-white pictures keep their colours.
Hardware: as stage II, 8 GPUs of 32 GB, batch 32 in all; at 500 k steps about four days.
Expected: paper and release give no score, and none was measured here.
"""

import ml_collections

from configs import codeformer_stage2


def get_config() -> ml_collections.ConfigDict:
    config = codeformer_stage2.get_config().unlock()
    config.codeformer.keep_gray = False
    # Levels of 255, factors, and turns of the hue; see `degrade.extras`.
    config.degradation.large.colour_shift = {"probability": 0.3, "shift": 20.0}
    config.degradation.large.gray = 0.01
    config.degradation.large.colour_jitter = {
        "probability": 0.3,
        "brightness": (0.5, 1.5),
        "contrast": (0.5, 1.5),
        "saturation": (0.0, 1.5),
        "hue": (-0.1, 0.1),
    }
    config.eval.weights = (0.0,)
    return config.lock()
