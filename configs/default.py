"""Default config: every field of the job, with its unit.

    python -m job.main --config=configs/default.py --workdir=runs/a

The values are a plain recipe of 30 epochs, which has not been run to its end.
`configs/stem32.py` is the recommended recipe. Any field can be set on the
command line, as in `--config.optimizer.momentum=0.8`, and `--mode=config`
prints the result. A strength of 0.0 disables an operation at no cost.
docs/configuration.md has the comments of this file as a table.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the config with all fields of the job."""
    config = ml_collections.ConfigDict()

    # Seed of the initial weights, the order of the images and the augmentation.
    config.seed = 0
    # Number of passes over the training images.
    config.epochs = 30.0
    # Number of training steps. If 0, it is derived from `epochs`.
    config.steps = 0
    # Images per step, over all replicas, a multiple of the number of replicas.
    config.global_batch_size = 512
    # Type of the forward and backward pass. Weights, batch statistics, loss and
    # evaluation are always float32.
    config.precision = "bfloat16"
    # Steps per call of the compiled loop. If 0, as many as fit in 2 seconds.
    config.steps_per_loop = 0
    # Steps between two lines of the metrics log.
    config.log_every_steps = 50
    # XLA for the forward and backward pass. With auto, on GPUs only.
    config.jit_compile = "auto"
    # Kernels that repeat bit by bit on GPUs, and may be slower. On a CPU all
    # kernels do.
    config.deterministic = False

    config.data = ml_collections.ConfigDict()
    # Format of the data set: CIFAR-10's binary or Python version, or that of
    # tensorflow-datasets. With auto, it is recognized in data.dir.
    config.data.source = "auto"
    # Folder, .tar.gz or gs:// path of a .tar.gz. If empty, the copy of
    # tensorflow-datasets, which is downloaded on the first run.
    config.data.dir = ""
    # SHA-256 of the .tar.gz in hexadecimal. If empty, that of the official one.
    config.data.archive_sha256 = ""
    # Fraction of the training images that is held out for tuning and scored
    # instead of the test images. If 0.0, all of them are used for training.
    config.data.validation_fraction = 0.0
    # Number of the slice to hold out, from 0. A slice on which no setting was
    # chosen gives an unbiased accuracy.
    config.data.validation_fold = 0
    # Number of images, sampled once for all seeds. If 0, all of them.
    config.data.train_images = 0
    config.data.test_images = 0
    # Number of synthetic images.
    config.data.synthetic_train_images = 8000
    config.data.synthetic_test_images = 2000

    config.model = ml_collections.ConfigDict()
    # Multiplier of the filters of every convolution (64 to 512).
    config.model.width = 1.0
    # Filters of the convolutions of block 1. If 0, 64 * width.
    config.model.stem_filters = 0
    # Pooling at the end of each block.
    config.model.pooling = "max"
    # Batch normalization after each convolution. Without it the convolutions
    # have biases, as in the paper.
    config.model.batch_norm = True
    # Fraction of the moving statistics that a step keeps. Keras' 0.99 is too
    # slow for short runs.
    config.model.batch_norm_momentum = 0.9
    # Constant added to the variance.
    config.model.batch_norm_epsilon = 1e-5
    # Initial kernels: he_fan_out (He et al. 2015), glorot (default of Keras),
    # torch (default of PyTorch), or dirac (he_fan_out with identity filters for
    # the input channels).
    config.model.init = "he_fan_out"
    # Reduction of the last feature map. At 32 pixels the map is a single pixel,
    # so avg and flatten are equal.
    config.model.head_pooling = "avg"
    # Units of the dense layers before the logits. The paper has (4096, 4096).
    config.model.head_units = ()
    # Dropout rate after each of these layers, or of the features without any.
    config.model.dropout = 0.0
    # Pretrained weights of the convolutions: imagenet (downloaded as in
    # keras.applications), or the path or gs:// path of Keras' VGG16 without its
    # top layers (.h5 or .weights.h5). If empty, model.init applies.
    config.model.weights = ""
    # Scaling of the pixels: standardize (CIFAR-10's mean and standard deviation
    # per channel), caffe (BGR minus ImageNet's mean), unit (0 to 1), or auto
    # (that of the training of the weights).
    config.model.preprocessing = "auto"
    # Image size before the first layer, in pixels. At 32 images are unchanged.
    config.model.input_size = 32
    # Kernel of the scaling to this size.
    config.model.upsampling = "bilinear"
    # Progressive resizing with size i until epoch i, then input_size. Sizes
    # below 32 scale images down. If empty, input_size throughout.
    config.model.progressive_sizes = ()
    config.model.progressive_epochs = ()

    config.transfer = ml_collections.ConfigDict()
    config.transfer.unfreeze_epochs = ml_collections.ConfigDict()
    # Epoch at which a block starts to train. If inf, it stays frozen. A block
    # must not start before the next one towards the output. The head always
    # trains.
    config.transfer.unfreeze_epochs.block1 = 0.0
    config.transfer.unfreeze_epochs.block2 = 0.0
    config.transfer.unfreeze_epochs.block3 = 0.0
    config.transfer.unfreeze_epochs.block4 = 0.0
    config.transfer.unfreeze_epochs.block5 = 0.0
    # Ratio of a block's learning rate to that of the next one towards the
    # output (Howard and Ruder 2018, arXiv:1801.06146). The head has the
    # learning rate of the schedule.
    config.transfer.layer_decay = 1.0
    # Linear warm-up of a block after it was unfrozen, in epochs.
    config.transfer.warmup_epochs = 0.0

    # docs/augmentation.md defines each field and states its cost.
    config.augment = ml_collections.ConfigDict()
    # Preset of configs/augment_presets.py, which replaces all fields of this
    # group that are not on the command line. If empty, none is replaced.
    config.augment.preset = ""
    # Horizontal flip, random (with probability 0.5) or alternating (each image
    # in every other epoch, Jordan 2024, arXiv:2404.00498).
    config.augment.flip = "alternating"
    # Largest translation in both directions, an integer, in pixels.
    config.augment.translate = 4.0
    # Source of pixels from outside the image, black with zero.
    config.augment.fill = "reflect"
    # Affine map, composed as in Keras' ImageDataGenerator, with the largest
    # angle in degrees, the largest shift as a fraction of height and width, the
    # largest shear angle in DEGREES, and factors for height and width from
    # 1 - zoom to 1 + zoom.
    config.augment.rotation_degrees = 0.0
    config.augment.shift = 0.0
    config.augment.shear = 0.0
    config.augment.zoom = 0.0
    # Factors from 1 - strength to 1 + strength, at least 0. For the hue, the
    # largest rotation in full circles.
    config.augment.brightness = 0.0
    config.augment.contrast = 0.0
    config.augment.saturation = 0.0
    config.augment.hue = 0.0
    # Fraction of the images that AutoAugment's CIFAR-10 policy changes, as in
    # torchvision (Cubuk et al. 2019, arXiv:1805.09501).
    config.augment.autoaugment = 0.0
    # Magnitude of RandAugment, two operations per image (Cubuk et al. 2020,
    # arXiv:1909.13719). torchvision's 9 of 30 is 3.0.
    config.augment.randaugment_magnitude = 0.0
    # Size of the square that is erased, an integer, in pixels.
    config.augment.cutout_pixels = 8.0
    # Mixing of pairs of images and of their labels, for which the number of
    # images per replica must be even. CutMix mixes a fraction of the pairs (Yun
    # et al. 2019, arXiv:1905.04899, alpha 1). mixup mixes the others by a
    # weight from Beta(alpha, alpha) (Zhang et al. 2018, arXiv:1710.09412).
    config.augment.mixup_alpha = 0.0
    config.augment.cutmix_probability = 0.0

    config.optimizer = ml_collections.ConfigDict()
    # Optimizer: sgd with Nesterov momentum, or adam (Kingma and Ba 2015,
    # arXiv:1412.6980).
    config.optimizer.name = "sgd"
    # Learning rate at the end of the warm-up. The common rule for sgd is 0.1
    # per 128 images of the global batch.
    config.optimizer.peak_learning_rate = 0.4
    # Ratio of Muon's learning rate to that of sgd. Muon (Jordan et al. 2024,
    # kellerjordan.github.io/posts/muon) then updates the kernels of the
    # convolutions, with a fixed norm in place of weight decay, and sgd the
    # other weights. If 0.0, sgd updates all.
    config.optimizer.muon_ratio = 0.0
    # Momentum of sgd and of Muon, beta 1 of adam.
    config.optimizer.momentum = 0.9
    # Weight decay of kernels. For sgd it is coupled (added to the gradient), as
    # in PyTorch and unlike Keras. For adam it is decoupled (times the learning
    # rate; AdamW, arXiv:1711.05101).
    config.optimizer.weight_decay = 5e-4
    # Linear warm-up from 0, in epochs.
    config.optimizer.warmup_epochs = 6.0
    # Decay of the learning rate to 0 after the warm-up.
    config.optimizer.schedule = "linear"
    # Fraction of the target that is spread evenly over the classes.
    config.optimizer.label_smoothing = 0.1
    # Decay per step of the exponential moving average of weights and batch
    # statistics, which is evaluated. If 0.0, no average is kept.
    config.optimizer.ema_decay = 0.995
    # Largest global norm of the gradient, after the sum over replicas. If 0.0,
    # gradients are not clipped.
    config.optimizer.clip_norm = 0.0

    config.evaluate = ml_collections.ConfigDict()
    # Epochs between two evaluations. If 0.0, only at the end.
    config.evaluate.every_epochs = 5.0
    # Images per evaluation step, over all replicas, rounded up to a multiple of
    # their number.
    config.evaluate.global_batch_size = 1000
    # Flip TTA in the last evaluation, which takes twice as long.
    config.evaluate.tta = True

    config.checkpoint = ml_collections.ConfigDict()
    # Steps between two checkpoints. If 0, one epoch, but at least 30 s.
    config.checkpoint.every_steps = 0
    # Number of checkpoints to keep.
    config.checkpoint.keep = 2
    # Policy for a loss, gradient or weight that is not finite. stop ends the
    # run with exit code 5. rollback resumes from the newest checkpoint at half
    # the learning rate, at most three times.
    config.checkpoint.on_nonfinite = "stop"

    config.distribute = ml_collections.ConfigDict()
    # Devices of the run. auto and mirrored use all GPUs of this machine, or its
    # CPU without any. multi_worker uses several machines (docs/distributed.md).
    config.distribute.strategy = "auto"
    # Number of replicas that the CPU is split into, for tests. If 0, no split.
    config.distribute.logical_devices = 0
    # Batch statistics over all replicas, which are slower and exclude XLA.
    config.distribute.sync_batch_norm = False
    # Minimum number of GPUs, below which the exit code is 69. If 0, a CPU is
    # sufficient.
    config.distribute.require_gpus = 0
    # Algorithm of the sum over GPUs. hierarchical is for one machine on which
    # NCCL fails. Several machines use NCCL.
    config.distribute.all_reduce = "auto"

    return config
