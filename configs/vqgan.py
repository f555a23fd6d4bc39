"""Stage I at the published setting: VQGAN at 512 px, 1024 codes, 63.7 M parameters.

    python train.py --config=configs/vqgan.py --workdir=runs/vqgan --config.data.path=FFHQ_DIR \
        --config.loss.lpips=weights/lpips.safetensors

Hardware: the published run takes 8 GPUs of 32 GB, batch 32 in all, 1.6 M steps, about ten days.
Expected: paper and release give no reconstruction score; look for a perplexity of several hundred
and reconstructions near 24 dB. Corrected faults: `beta` weights the commitment term, LPIPS inputs
are normalised once, codes start from encoder outputs; `configs/reference/` has published values.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "vqgan"
    config.seed = 0
    config.steps = 1_600_000
    # Workdir or model file of an earlier run whose network this one starts from.
    config.init_from = config_dict.placeholder(str)
    # Likewise for the discriminator alone: a converted vqgan_discriminator.pth, or a workdir.
    config.init_discriminator_from = config_dict.placeholder(str)
    config.mesh = "data:-1"
    config.ema_decay = 0.995
    config.ema_warmup = True
    config.codebook_init = "latents"  # or 'uniform', as published
    config.log_every = 100
    config.eval_every = 5_000
    config.checkpoint_every = 5_000
    # Steps in a row without a finite loss and gradient, all skipped, that stop the run.
    config.max_skipped = 10
    # TFLOP/s of one device, for its share that is used; known ones need none.
    config.peak_tflops = config_dict.placeholder(float)

    config.train = ml_collections.ConfigDict()
    # 'START:STOP': these steps, counted from 0, are traced by jax.profiler into WORKDIR/profile.
    config.train.profile = config_dict.placeholder(str)
    # Compile the steps for `mesh`, print operations and memory, and stop: no data, no accelerator.
    config.train.compile_only = False
    config.train.topology = config_dict.placeholder(str)  # TPUs to compile for: 'v5e:16x16'
    config.train.plan_format = "table"  # or 'json'
    # GPU programs that repeat bit for bit, for slower kernels and scatters; see docs/numerics.md.
    config.train.deterministic = False
    # Of initial weights and dropout alone; 'rbg' is faster on TPUs. Images keep threefry.
    config.train.prng = "threefry2x32"

    config.model = ml_collections.ConfigDict()
    config.model.image_size = 512
    config.model.nf = 64
    config.model.ch_mult = (1, 2, 2, 4, 4, 8)
    config.model.res_blocks = 2
    config.model.attn_resolutions = (16,)
    config.model.codebook_size = 1024
    config.model.emb_dim = 256
    config.model.norm_groups = 32
    config.model.quantizer = "nearest"  # or 'gumbel'
    # Gumbel: False as published, soft mixtures in training; weight of the KL, 1e-8 as published.
    config.model.straight_through = True
    config.model.kl_weight = 5e-4
    # Cosine decay to temperature_final over temperature_steps; 0 steps: constant, as published.
    config.model.temperature = 1.0
    config.model.temperature_final = 1.0
    config.model.temperature_steps = 0
    config.model.beta = 0.25
    config.model.beta_on = "commitment"  # or 'codebook', as published
    config.model.ema_decay = config_dict.placeholder(float)  # 0.99: codebook as moving average
    config.model.restart_below = 0.0  # 0.1: codes used less per batch restart from latents
    config.model.dtype = "float32"  # or 'bfloat16', for the computation alone
    # Precision of float32 products: 'default' (the platform's), 'high' or 'highest'.
    config.model.precision = "default"
    # 'full', 'dots' or a policy of JAX: memory for a second forward, see `nn/remat.py`.
    config.model.remat = config_dict.placeholder(str)

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.ndf = 64
    config.discriminator.n_layers = 4

    config.loss = ml_collections.ConfigDict()
    config.loss.pixel_weight = 1.0
    config.loss.perceptual_weight = 1.0
    config.loss.lpips = config_dict.placeholder(str)
    config.loss.lpips_normalize_twice = False  # True as published
    config.loss.gan_weight = 0.8
    config.loss.gan_start = 30_000
    config.loss.adaptive_maximum = 1.0  # 1e4 in Taming Transformers
    # BatchNorm statistics and adaptive weight: of the batch; 8 as published, each of an eighth.
    config.loss.statistics_groups = 1

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam"  # or 'adamw', with weight_decay
    config.optimizer.weight_decay = 0.0
    config.optimizer.learning_rate = 7e-5
    config.optimizer.betas = (0.9, 0.99)
    config.optimizer.schedule = "cosine"
    config.optimizer.final_learning_rate = 6e-5
    config.optimizer.warmup_steps = 0
    config.optimizer.clip_norm = 0.0
    # Slices that a step's batch is measured in, one after the other: memory for time.
    config.optimizer.accumulate = 1

    config.data = ml_collections.ConfigDict()
    # A source as in docs/data.md: a folder, tfds:DIR, a mixture; without it, synthetic faces.
    config.data.path = config_dict.placeholder(str)
    config.data.image_size = 512
    config.data.batch_size = 32
    config.data.flip = True
    config.data.workers = 8
    config.data.cache = False
    config.data.heldout_fraction = 0.01
    config.data.max_unreadable = 100
    # Bound of a folder's pictures against decompression bombs; else PIL.Image.MAX_IMAGE_PIXELS.
    config.data.max_megapixels = config_dict.placeholder(float)
    config.data.synthetic_length = 70_000
    config.data.heldout_length = 256

    config.eval = ml_collections.ConfigDict()
    # A source of held-out images; without it, the held-out part of the training data.
    config.eval.path = config_dict.placeholder(str)
    # Instead of both, for eval.py: a folder that `codeformer-jax testset` made.
    config.eval.testset = config_dict.placeholder(str)
    config.eval.batch_size = 8
    config.eval.batches = 8
    config.eval.recipe = "small"
    config.eval.weights = (0.0, 0.5, 1.0)
    # For restoration, also in `codeformer-jax restore`; measured by `benchmarks/adain.py`.
    config.eval.adain = True
    config.eval.limit = config_dict.placeholder(int)
    config.eval.lpips = config_dict.placeholder(str)
    config.eval.checkpoint = "latest"
    return config.lock()
