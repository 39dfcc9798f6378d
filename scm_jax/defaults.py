"""Every configuration field, with its meaning and the paper's value.

`configs/*.py` start from `get_defaults()` and change what differs. Section,
table and equation numbers are those of arXiv 2410.11081.
"""

from ml_collections import config_dict


def _fields(**fields) -> config_dict.ConfigDict:
  return config_dict.ConfigDict(fields)


def _data() -> config_dict.ConfigDict:
  return _fields(
    kind="images",  # or "latents": an autoencoder's means and deviations
    name="",  # a TFDS name
    split="train",
    data_dir="",  # "" is TFDS's own default
    # Side of the images (smaller ones are padded) or latents that the network
    # sees.
    size=0,
    channels=3,
    num_classes=0,  # 0: labels are not used
    mean=0.0,  # of images in [-1, 1], or of latents, one for each channel ...
    std=0.5,  # ... which become (image - mean) / std * sigma_d
    image_range=(-1.0, 1.0),  # of the images whose latents are stored
    # File of the autoencoder that decodes samples of latents; "": a preview.
    autoencoder="",
    flip=False,  # random horizontal flips
    # Probability of each change of EDM's augmentation, which the network must
    # take as an input (network.augment) and which mirrors by itself; 0: none.
    augment=0.0,
  )


def _network() -> config_dict.ConfigDict:
  return _fields(
    family="unet",  # EDM2's U-Net; or "ddpmpp", DDPM++ (see presets.py)
    form="trigflow",  # or the published one: "edm2" (unet), "edm" (ddpmpp)
    # The unet's; or "shared", with EDM2's parameter count; or "gained", that
    # with learnt gains, to start from EDM2's networks.
    double_norm="split",
    # What the head of w_phi sees: "positional" features of t, for students;
    # or "fourier" features of ln(sigma), for teachers, as EDM2 has.
    weighting="positional",
    channels=192,
    channel_mult=(1, 2, 3, 4),
    channel_mult_emb=0,  # the embedding's width; 0: the largest of channel_mult
    num_blocks=3,
    attn_resolutions=(16, 8),
    channels_per_head=64,
    dropout=0.0,
    dropout_resolution=16,  # largest side with dropout (G.2)
    # Or "bfloat16", or "float16" (GPUs alone), whose gradients are scaled. The
    # time path is float32 in all of them.
    dtype="float32",
    # Of float32 products: "highest" is float32; "high" three bfloat16 products
    # on TPUs, TensorFloat-32 on GPUs; "default" one, and TensorFloat-32.
    precision="highest",
    last_float32=0,  # blocks at the end, with the output's layer, in float32
    augment=False,  # whether the augmentation is an input; DDPM++ alone has it
    attention="einsum",  # or "chunked", without a matrix of all pairs
    # What a block keeps for the backward pass: "none" is all of it, "full"
    # nothing, "dots" results of convolutions and products.
    remat="none",
  )


def _objective() -> config_dict.ConfigDict:
  return _fields(
    # Both objectives.
    P_mean=-0.8,  # of ln(sigma), the proposal of times (Table 5)
    P_std=1.6,
    adaptive_weighting=True,  # learn w_phi(t) (Equation 8)
    # w_phi counts once a sample (Equation 8), which RAdam needs; or "pixel":
    # the loss is D times as large, EDM2's sum, which Adam does not see.
    weighting_unit="sample",
    label_dropout=0.0,  # probability of training without the label
    # The velocity that a diffusion run learns: the sample's own (Equation 4),
    # or, to adapt a network to another's form, that of config.teacher.
    target="data",  # or "teacher"
    # sCM (Algorithm 1).
    warmup_steps=10_000,  # H, of the tangent's second term
    warmup="linear",  # or "variance_exact" (rCM)
    derivative="jvp",  # or "finite_difference", or "discrete" (dsCD, App. E)
    finite_difference_step=1e-3,
    discrete_steps=1024,  # N of dsCD
    tangent_norm="l2",  # or "rms", "clip", "none" (Section 4.2)
    tangent_c=0.1,
    # The type and precision of the network and the teacher where the tangent is
    # taken; "": those of the network, in one pass with the value. Otherwise the
    # tangent has a pass of its own, of a type and precision as in `network`.
    tangent_dtype="",
    tangent_precision="highest",
    # Steps between checks of the tangent against float32's, on a few samples:
    # `tangent_error/...` and `tangent_bias/...` in metrics.jsonl; 0: none.
    check_every=0,
    check_samples=64,
    prior_weight="none",  # or "inverse_sigma", a further 1 / sigma
    reduction="mean",  # of squares over the sample; or "sum"
    reset_weighting=True,  # start the student's w_phi afresh
    # Classifier-free guidance of sCD's teacher (Section 5.2).
    guidance="none",  # or "fixed", or "sampled": the student takes the scale
    guidance_scale=1.0,  # of "fixed"
    guidance_range=(1.0, 2.0),  # of "sampled", uniform
  )


def _optimizer() -> config_dict.ConfigDict:
  return _fields(
    name="adam",  # or "radam" (CIFAR-10, G.2)
    learning_rate=1e-2,  # alpha_ref
    decay_steps=70_000,  # t_ref of alpha_ref / sqrt(max(step / t_ref, 1))
    rampup_images=10_000_000,  # linear, from zero
    # Not in the paper: over this last part of total_steps the rate also falls
    # linearly to zero, which short runs gain from.
    cooldown=0.0,
    b1=0.9,
    b2=0.99,
    eps=1e-11,  # the paper's change to EDM2's 1e-8 (Table 5)
  )


def _sample() -> config_dict.ConfigDict:
  # How samples are drawn unless a flag says otherwise: in training, and by
  # `sample`, `evaluate` and `scm_jax.load`.
  return _fields(
    t_mid=1.1,  # second time of the 2-step sampler (G.2)
    sigma_max=80.0,
    solver="heun",  # for teachers; or "dpm_solver"
    solver_steps=32,  # 63 evaluations with Heun (G.2)
    guidance=1.0,  # the scale, for networks that take one
    num=40,  # images in the grids drawn while training
    batch_size=256,
  )


def _evaluate() -> config_dict.ConfigDict:
  return _fields(
    num=1000,  # samples in training, as config.sample draws the grids
    # What samples are compared with, in training and by `evaluate` (which reads
    # no other field here): a dataset, NAME[:SPLIT], or a file such as
    # img512.pkl; "" is the training data.
    reference="",
    # Feature spaces. The first one's kernel distance says what is best; where
    # the reference is a file of means and covariances, its Fréchet distance.
    features=("pixels",),
    weights=(),  # of published ones among them: ("inception=FILE",)
  )


def _mesh() -> config_dict.ConfigDict:
  # Sizes of the axes; -1, in one of them, is what the devices leave. Batches
  # are split over both, parameters over fsdp. Hosts are outermost.
  return _fields(data=-1, fsdp=1)


def _sharding() -> config_dict.ConfigDict:
  return _fields(
    min_size=65_536,  # arrays of fewer elements are replicated
    # (pattern of an array's path, dimension or None for replicated), the first
    # that is found decides; see training/sharding.py.
    rules=(),
    # In what gradients are summed over fsdp: "" is the network's type; or
    # "float32", which sends twice as much of them.
    reduce_dtype="",
  )


def get_defaults() -> config_dict.ConfigDict:
  """A config with every field; what has no default is empty or zero."""
  return _fields(
    run="teacher",  # or "sct", "scd"
    seed=0,
    batch_size=2048,
    total_steps=0,
    sigma_d=0.5,  # standard deviation of the network's data
    teacher="",  # workdir whose EMA weights a student starts from
    teacher_ema=0.0,  # which of its averages, or any width; 0 is its first
    start="",  # workdir to start from instead, such as an adapted teacher's
    # Of its weights in sCD; or "bfloat16", "float16".
    teacher_dtype="float32",
    # The averages; the first is the default. Below 1: sigma_rel of a power
    # function (EDM2, Section 3). From 1 on: a half-life in images (CIFAR-10:
    # 500_000), at most `ema_rampup_ratio` of the images seen (EDM).
    ema=(0.05, 0.10),
    ema_rampup_ratio=0.05,
    # Steps between snapshots of the averages, from which any other sigma_rel
    # is reconstructed; 0: none. EDM2: 8 Mi images, 4096 steps of 2048.
    snapshot_every=0,
    snapshot_dtype="float16",  # EDM2's; or "float32", "bfloat16"
    data=_data(),
    network=_network(),
    objective=_objective(),
    optimizer=_optimizer(),
    sample=_sample(),
    evaluate=_evaluate(),
    mesh=_mesh(),
    sharding=_sharding(),
    # Whether a step that needs far more memory than the devices have, by an
    # estimate, is not compiled: "stop"; or "warn" tries it, "off" says nothing.
    memory_check="stop",
    # What rests in the host's memory between steps, to leave room on the
    # device: any of "averages", "moments".
    offload=(),
    # Parts of a device's batch that follow one another; 0: as few as keep each
    # part at `images_per_pass`.
    microbatches=0,
    images_per_pass=0,  # most images of a device in one part; 0: no limit
    log_every=100,
    sample_every=0,  # 0: only at the end
    # Steps between scores in training (`in_training/...` in metrics.jsonl),
    # cheap and comparable with each other only; 0: none. The average with the
    # best so far is kept, as an export in best/.
    evaluate_every=0,
    checkpoint_every=1000,
    keep_checkpoints=2,  # the last few ...
    keep_every=0,  # ... and those whose step this divides; 0: none more
    watchdog=600.0,  # seconds without a step until stacks are shown; 0: never
    profile=False,  # traces for TensorBoard's profile plugin
    # RMS of the network's output, about 1 in a healthy run, beyond which a
    # run is stopped as diverged.
    divergence_limit=100.0,
    # What happens when the gradient is not finite in several steps in a row:
    # "stop" the run, or "warn". (Such entries are zeroed in any case, as in
    # EDM2, and every window of steps that had some warns.)
    nonfinite="stop",
    # Do a step's gradient again, without the samples that overflowed in the
    # network, where it is not finite. Makes the step a loop.
    isolate=False,
  )
