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
    # Workdir or model file of the teacher; else the one of `init_from`.
    config.teacher = config_dict.placeholder(str)
    # Least PSNR, in dB, of the teacher's reconstructions; a run with a worse teacher is refused.
    config.teacher_min_psnr = 18.0
    # Output of `codeformer-jax encode`: the teacher's codes of these images, computed once.
    config.data.codes = config_dict.placeholder(str)
    del config.discriminator
    del config.init_discriminator_from
    del config.codebook_init

    config.codeformer = ml_collections.ConfigDict()
    config.codeformer.dim_embd = 512  # Width of the transformer.
    config.codeformer.n_head = 8  # Attention heads.
    config.codeformer.n_layers = 9  # Transformer layers.
    config.codeformer.connect_list = (32, 64, 128, 256)  # Sides of the fused maps.
    config.codeformer.fusion_zero_init = True  # Fusion starts at zero; False as published.
    # Restored black-and-white pictures stay black and white.
    config.codeformer.keep_gray = True
    # Restoring fills in pure white pixels only, for inpainting.
    config.codeformer.keep_known = False

    config.loss = ml_collections.ConfigDict()
    config.loss.feature_weight = 1.0  # Weight of the squared error of the features.
    config.loss.cross_entropy_weight = 0.5  # Weight of the cross entropy of the codes.

    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "multistep"
    config.optimizer.milestones = (400_000, 450_000)  # Steps of a drop, for 'multistep'.
    config.optimizer.gamma = 0.5  # Factor of the learning rate at each milestone.

    config.degradation = ml_collections.ConfigDict()
    # Pixels, factors, levels of 255, JPEG quality; drawn uniformly for each image.
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
