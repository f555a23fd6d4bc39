"""Stage II at the published setting: codes predicted from degraded faces, 512 px.

    python train.py --config=configs/codeformer_stage2.py --workdir=runs/stage2 \
        --config.init_from=runs/vqgan --config.data.path=FFHQ_DIR

Hardware: the published run takes 8 GPUs of 32 GB, batch 32 in all, 500 k steps, about four days.
Expected: code accuracy of 10 to 20 % on the large recipe (many codes look alike); see
`codeformer_stage3.py` for image scores.
"""

import ml_collections
from ml_collections import config_dict

from configs import vqgan


def get_config() -> ml_collections.ConfigDict:
    config = vqgan.get_config().unlock()
    config.task = "code_prediction"
    config.steps = 500_000
    # Workdir or model file of the stage-I VQGAN, where it is not the one in `init_from`.
    config.teacher = config_dict.placeholder(str)
    # dB. A teacher that reconstructs held-out images worse than this is refused.
    config.teacher_min_psnr = 18.0
    # Folder that `codeformer-jax encode` wrote of these images: the teacher's codes, once for all.
    config.data.codes = config_dict.placeholder(str)
    del config.discriminator
    del config.init_discriminator_from
    del config.codebook_init

    config.codeformer = ml_collections.ConfigDict()
    config.codeformer.dim_embd = 512
    config.codeformer.n_head = 8
    config.codeformer.n_layers = 9
    config.codeformer.connect_list = (32, 64, 128, 256)
    config.codeformer.fusion_zero_init = True  # False as published
    # What `codeformer-jax restore` does with results of this network; see `nn.CodeFormer`.
    config.codeformer.keep_gray = True
    config.codeformer.keep_known = False

    config.loss = ml_collections.ConfigDict()
    config.loss.feature_weight = 1.0
    config.loss.cross_entropy_weight = 0.5

    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "multistep"
    config.optimizer.milestones = (400_000, 450_000)
    config.optimizer.gamma = 0.5

    # Pixels, times, levels of 255, JPEG quality; drawn uniformly for each image.
    config.degradation = ml_collections.ConfigDict()
    config.degradation.large = {
        "blur_sigma": (1.0, 15.0),
        "downsample": (4.0, 30.0),
        "noise": (0.0, 20.0),
        "jpeg_quality": (30.0, 80.0),
        "anisotropic": 0.5,
    }
    config.degradation.small = {
        "blur_sigma": (0.1, 10.0),
        "downsample": (1.0, 12.0),
        "noise": (0.0, 15.0),
        "jpeg_quality": (60.0, 100.0),
        "anisotropic": 0.5,
    }
    config.eval.recipe = "large"
    return config.lock()
