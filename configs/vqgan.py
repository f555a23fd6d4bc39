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
    config.task = "vqgan"  # Training task.
    config.plugins = ()  # Your own modules to import, see docs/extending.md: ('my_module',).
    config.seed = 0  # Seed of weights, data order, and all random draws.
    config.steps = 1_600_000  # Steps in all; 0 evaluates and saves the initial state.
    # Workdir or model file that initialises the network.
    config.init_from = config_dict.placeholder(str)
    # Workdir or converted vqgan_discriminator.pth that initialises the discriminator; else random.
    config.init_discriminator_from = config_dict.placeholder(str)
    # Devices of each mesh axis, 'data:4,fsdp:2' or 'slice:2,data:-1'; -1 takes the rest. See
    # docs/distributed.md.
    config.mesh = "data:-1"
    config.ema_decay = 0.995  # Decay of the moving average of the parameters.
    config.ema_warmup = True  # Smaller decay in the first steps; False as published.
    config.codebook_init = "latents"  # Source of the first codes; 'uniform' as published.
    config.log_every = 100  # Steps between two lines of metrics.
    config.eval_every = 5_000  # Steps between two evaluations of held-out images.
    config.checkpoint_every = 5_000  # Steps between two checkpoints.
    # Consecutive steps skipped for a non-finite loss or gradient that stop the run.
    config.max_skipped = 10
    # Peak TFLOP/s of one device, for `peak_share`; needed for unknown devices only.
    config.peak_tflops = config_dict.placeholder(float)

    config.train = ml_collections.ConfigDict()
    # 'START:STOP': steps, counted from 0, that jax.profiler traces into WORKDIR/profile.
    config.train.profile = config_dict.placeholder(str)
    # Compile the steps for `mesh`, print operations, memory, traffic and estimated times, and
    # stop. Reads no data.
    config.train.compile_only = False
    # TPU slice to compile for: 'v5e:16x16'.
    config.train.topology = config_dict.placeholder(str)
    config.train.plan_format = "table"  # Output of `compile_only`.
    # GPU programs that repeat bit for bit, at some cost in speed. See docs/numerics.md.
    config.train.deterministic = False
    # PRNG of initial weights and dropout; 'rbg' is faster on TPUs. Images always use threefry.
    config.train.prng = "threefry2x32"
    # Seconds that a compilation, `log_every` steps, an evaluation batch or a save may take before
    # the run prints its stacks and stops; 0: no limit for one process, 1800 for several. See
    # docs/distributed.md.
    config.train.watchdog = 0.0

    config.model = ml_collections.ConfigDict()
    config.model.image_size = 512  # Side of the images, in pixels.
    config.model.nf = 64  # Channels at full resolution.
    config.model.ch_mult = (1, 2, 2, 4, 4, 8)  # Factor of `nf` at each level.
    config.model.res_blocks = 2  # Residual blocks of each level.
    config.model.attn_resolutions = (16,)  # Sides of the maps that get attention.
    config.model.codebook_size = 1024  # Number of codes.
    config.model.emb_dim = 256  # Channels of a code.
    config.model.norm_groups = 32  # Groups of the group norms.
    config.model.quantizer = "nearest"  # Vector quantizer.
    config.model.straight_through = True  # Gumbel: one-hot codes in training; False as published.
    config.model.kl_weight = 5e-4  # Gumbel: weight of the KL to uniform; 1e-8 as published.
    config.model.temperature = 1.0  # Gumbel: temperature of the first step.
    config.model.temperature_final = 1.0  # Gumbel: temperature after the cosine decay.
    config.model.temperature_steps = 0  # Gumbel: steps of the decay; 0 keeps the temperature.
    config.model.beta = 0.25  # Weight of the term that `beta_on` names.
    config.model.beta_on = "commitment"  # Term that `beta` weights; 'codebook' as published.
    # Decay of a moving-average codebook, such as 0.99; else the loss trains the codebook.
    config.model.ema_decay = config_dict.placeholder(float)
    # Uses per batch below which a code restarts from a latent, such as 0.1; 0 is off.
    config.model.restart_below = 0.0
    config.model.dtype = "float32"  # Dtype of the computation; parameters stay float32.
    config.model.precision = "default"  # Precision of float32 products. See docs/numerics.md.
    # Rematerialisation: 'dots', 'full' or a policy of JAX. See docs/memory.md.
    config.model.remat = config_dict.placeholder(str)

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.ndf = 64  # Channels of the first layer.
    config.discriminator.n_layers = 4  # Strided layers.

    config.loss = ml_collections.ConfigDict()
    config.loss.pixel_weight = 1.0  # Weight of the L1 loss; of the squared error in a VQ-VAE.
    config.loss.perceptual_weight = 1.0  # Weight of the perceptual loss; 0 needs no weights.
    # Converted weights of LPIPS or ST-LPIPS; the perceptual loss is the one that they are of.
    config.loss.lpips = config_dict.placeholder(str)
    config.loss.lpips_normalize_twice = False  # Normalise its inputs twice; True as published.
    config.loss.gan_weight = 0.8  # Weight of the adversarial loss, before the adaptive weight.
    config.loss.gan_start = 30_000  # First step with the adversarial loss.
    config.loss.adaptive_maximum = 1.0  # Clamp of the adaptive weight; 1e4 in Taming Transformers.
    # Parts of the batch with BatchNorm statistics and an adaptive weight of their own; 8 as
    # published, one for each GPU.
    config.loss.statistics_groups = 1

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam"  # Optimizer.
    config.optimizer.weight_decay = 0.0  # Decoupled weight decay of 'adamw'; matrices only.
    config.optimizer.learning_rate = 7e-5  # Learning rate after the warm-up.
    config.optimizer.betas = (0.9, 0.99)  # Adam's decay rates.
    config.optimizer.schedule = "cosine"  # Learning rate schedule.
    config.optimizer.final_learning_rate = 6e-5  # Learning rate of the last step, for 'cosine'.
    config.optimizer.warmup_steps = 0  # Steps of linear warm-up.
    config.optimizer.clip_norm = 0.0  # Largest norm of the gradients; 0 is off.
    # Slices of a step's batch, computed one after the other to save memory.
    config.optimizer.accumulate = 1

    config.data = ml_collections.ConfigDict()
    # Source: a folder, 'tfds:DIR', a mixture (docs/data.md); else synthetic faces.
    config.data.path = config_dict.placeholder(str)
    config.data.image_size = 512  # Side of the images, in pixels.
    config.data.batch_size = 32  # Images of one step, over all devices.
    config.data.flip = True  # Random horizontal flips.
    config.data.turn = 0.0  # Largest random turn, in degrees.
    config.data.zoom = 0.0  # Largest random change of size, as a share.
    config.data.shift = 0.0  # Largest random shift along each axis, as a share of the side.
    config.data.workers = 8  # Data worker processes.
    config.data.cache = False  # Keep decoded images in memory.
    config.data.heldout_fraction = 0.01  # Share of a folder that is held out.
    config.data.max_unreadable = 100  # Unreadable files of a folder that are tolerated.
    # Largest picture of a folder, in megapixels; else PIL.Image.MAX_IMAGE_PIXELS.
    config.data.max_megapixels = config_dict.placeholder(float)
    config.data.synthetic_length = 70_000  # Number of synthetic training faces.
    config.data.heldout_length = 256  # Number of synthetic held-out faces.

    config.eval = ml_collections.ConfigDict()
    # Source of held-out images; else the held-out part of the training data.
    config.eval.path = config_dict.placeholder(str)
    # Folder made by `codeformer-jax testset`; replaces the source, in eval.py only.
    config.eval.testset = config_dict.placeholder(str)
    config.eval.batch_size = 8  # Images of one evaluation batch.
    config.eval.batches = 8  # Batches of an evaluation during training.
    config.eval.recipe = "small"  # Degradation of the held-out images.
    config.eval.weights = (0.0, 0.5, 1.0)  # Fidelity weights `w` that are scored.
    # AdaIN when restoring: held-out scores, eval.py, and `codeformer-jax restore`.
    config.eval.adain = True
    config.eval.limit = config_dict.placeholder(int)  # Largest number of images, in eval.py.
    # Names from codeformer_jax.metrics.METRICS; none: all for which everything is given.
    config.eval.metrics = config_dict.placeholder(tuple)
    # Converted LPIPS weights; eval.py then reports LPIPS.
    config.eval.lpips = config_dict.placeholder(str)
    # Converted ST-LPIPS weights; eval.py then reports ST-LPIPS.
    config.eval.st_lpips = config_dict.placeholder(str)
    config.eval.checkpoint = "latest"  # Checkpoint for eval.py: 'latest', 'best' or a step.
    return config.lock()
