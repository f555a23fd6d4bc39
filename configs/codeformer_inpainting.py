"""Inpainting: stage III on faces with brush strokes painted white, 512 px.

    python train.py --config=configs/codeformer_inpainting.py --workdir=runs/inpainting \
        --config.init_from=runs/stage3 --config.data.path=FFHQ_DIR \
        --config.loss.lpips=weights/lpips.safetensors

Strokes are the only corruption, w is 1 from the first step to the last, and there is no fusion at
256 px. Everything else is stage III's; the release does not say how long it was fine-tuned.
Hardware: as stage III, 8 GPUs of 32 GB, batch 24 in all; at 150 k steps about four days.
Expected: paper and release give no score, and none was measured here.
The released network for inpainting has a codebook of 512 (its published config says 1024): to start
from its weights add --config.model.codebook_size=512 and the teacher that belongs to it. Restore
with `-w 1`, a model file also with `--no-adain`: white pixels are filled in, all others stay
(`keep_known`).
"""

import ml_collections

from configs import codeformer_stage3


def get_config() -> ml_collections.ConfigDict:
    config = codeformer_stage3.get_config().unlock()
    config.codeformer.connect_list = (32, 64, 128)
    config.codeformer.keep_known = True
    # Pixels and degrees; see `degrade.extras.Mask`.
    config.degradation = ml_collections.ConfigDict()
    config.degradation.inpainting = {
        "kind": "clean",
        "mask": {
            "strokes": (1, 4),
            "corners": (4, 12),
            "width": (24.0, 80.0),
            "length": (20.0, 160.0),
            "turn": (48.0, 96.0),
        },
    }
    row = {"w": 1.0, "recipe": "inpainting", "image_losses": True}
    config.schedule = ({"until": 150_000, **row},)
    config.eval.recipe = "inpainting"
    config.eval.weights = (1.0,)
    config.eval.adain = False
    return config.lock()
