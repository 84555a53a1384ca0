"""Default config: every field of the job, with its unit.

    python -m job.main --config=configs/default.py --workdir=runs/a

The values are the 30-epoch recipe of `configs/stem32.py`, which states its
time and accuracy. Any field can be set on the command line,
`--config.optimizer.momentum=0.8`; `--mode=config` prints the result. A strength
of 0.0 disables an operation and costs nothing. docs/configuration.md has the
comments of this file as a table.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the config with every field that the job knows."""
    config = ml_collections.ConfigDict()

    # Seed of the initial weights, the order of the images and the augmentation.
    config.seed = 0
    # Passes over the training images.
    config.epochs = 30.0
    # Training steps. 0 derives them from `epochs`.
    config.steps = 0
    # Images per step, over all replicas. A multiple of the number of replicas.
    config.global_batch_size = 512
    # Type of the forward and backward pass. Weights, batch statistics, loss and
    # evaluation are always float32.
    config.precision = "bfloat16"
    # Steps per call of the compiled loop. 0: as many as fit in 2 seconds.
    config.steps_per_loop = 0
    # Steps between two lines of the metrics log.
    config.log_every_steps = 50
    # XLA for the forward and backward pass. auto: on GPUs only.
    config.jit_compile = "auto"
    # Kernels that repeat bit by bit on GPUs, and may be slower. On a CPU a run
    # repeats without it.
    config.deterministic = False

    config.data = ml_collections.ConfigDict()
    # Layout of the images: CIFAR-10's binary or Python version, or that of
    # tensorflow-datasets. auto recognizes the content of data.dir.
    config.data.source = "auto"
    # Folder, .tar.gz or gs:// path of a .tar.gz. Empty: the copy of
    # tensorflow-datasets, downloaded on the first run.
    config.data.dir = ""
    # SHA-256 of the .tar.gz, in hexadecimal. Empty: the official archive's.
    config.data.archive_sha256 = ""
    # Fraction of the training images that is held out and scored in place of
    # the test images, for tuning. 0.0 trains on all of them.
    config.data.validation_fraction = 0.0
    # Number of images to use, sampled once for all seeds. 0 uses all of them.
    config.data.train_images = 0
    config.data.test_images = 0
    # Number of synthetic images.
    config.data.synthetic_train_images = 8000
    config.data.synthetic_test_images = 2000

    config.model = ml_collections.ConfigDict()
    # Factor for the filters of every convolution (64 to 512).
    config.model.width = 1.0
    # Filters of the convolutions of block 1. 0: 64 * width.
    config.model.stem_filters = 0
    # Pooling at the end of each block.
    config.model.pooling = "max"
    # Batch normalization after each convolution. Without it the convolutions
    # have biases, as in the paper.
    config.model.batch_norm = True
    # Fraction of the moving statistics that a step keeps. Keras' 0.99 is too
    # slow for short runs.
    config.model.batch_norm_momentum = 0.9
    # Constant that is added to the variance.
    config.model.batch_norm_epsilon = 1e-5
    # Initial kernels. he_fan_out: He et al. 2015; glorot: Keras default; torch:
    # PyTorch's default; dirac: he_fan_out, with first filters that pass each
    # channel on unchanged.
    config.model.init = "he_fan_out"
    # Reduction of the last feature map. At 32 pixels it is one pixel, and avg
    # and flatten are equal.
    config.model.head_pooling = "avg"
    # Units of the dense layers before the logits. The paper has (4096, 4096).
    config.model.head_units = ()
    # Dropout after each of these layers; without any, of the features.
    config.model.dropout = 0.0
    # Initial weights of the convolutions. Empty: see model.init; imagenet:
    # downloads those of keras.applications; or a path or gs:// path of Keras'
    # VGG16 without its top, .h5 or .weights.h5.
    config.model.weights = ""
    # Scaling of the pixels. auto: as the weights were trained; standardize:
    # CIFAR-10's mean and standard deviation per channel; caffe: BGR minus
    # ImageNet's mean; unit: 0 to 1.
    config.model.preprocessing = "auto"
    # Size in pixels to which images are scaled before the first layer. 32
    # leaves them unchanged.
    config.model.input_size = 32
    # Kernel of that scaling.
    config.model.upsampling = "bilinear"
    # Progressive resizing: size i until epoch i, then input_size to the end.
    # Sizes below 32 scale images down. Empty: input_size throughout.
    config.model.progressive_sizes = ()
    config.model.progressive_epochs = ()

    config.transfer = ml_collections.ConfigDict()
    config.transfer.unfreeze_epochs = ml_collections.ConfigDict()
    # Epoch at which a block starts to train; inf: never. No block may start
    # before the next one towards the output. The head always trains.
    config.transfer.unfreeze_epochs.block1 = 0.0
    config.transfer.unfreeze_epochs.block2 = 0.0
    config.transfer.unfreeze_epochs.block3 = 0.0
    config.transfer.unfreeze_epochs.block4 = 0.0
    config.transfer.unfreeze_epochs.block5 = 0.0
    # Learning rate of a block divided by that of the next one towards the
    # output (Howard and Ruder 2018, arXiv:1801.06146). The head has the
    # schedule's. 1.0: the same for all.
    config.transfer.layer_decay = 1.0
    # Epochs of linear warm-up of a block after it was unfrozen.
    config.transfer.warmup_epochs = 0.0

    # docs/augmentation.md defines each field and states its cost.
    config.augment = ml_collections.ConfigDict()
    # Preset of configs/augment_presets.py. It replaces all fields of this group
    # that are not on the command line. Empty: replaces nothing.
    config.augment.preset = ""
    # Horizontal flip. random: with probability 0.5; alternating: each image in
    # every other epoch (Jordan 2024, arXiv:2404.00498).
    config.augment.flip = "alternating"
    # Largest translation in both directions, in whole pixels.
    config.augment.translate = 4.0
    # Values from outside the image. zero: black.
    config.augment.fill = "reflect"
    # One affine map, composed as in Keras' ImageDataGenerator: largest angle;
    # largest shift, as a fraction of height and width; largest shear angle, in
    # DEGREES; factors for height and width from 1 - zoom to 1 + zoom.
    config.augment.rotation_degrees = 0.0
    config.augment.shift = 0.0
    config.augment.shear = 0.0
    config.augment.zoom = 0.0
    # Factors from 1 - strength to 1 + strength, at least 0. hue: largest turn;
    # 0.5 is half the circle.
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
    # Side of the square that is erased, in whole pixels.
    config.augment.cutout_pixels = 8.0
    # Pairs of images are mixed with their labels. mixup: weight from
    # Beta(alpha, alpha) (Zhang et al. 2018, arXiv:1710.09412). CutMix: fraction
    # of the pairs (Yun et al. 2019, arXiv:1905.04899, alpha 1). mixup applies
    # to the pairs that CutMix leaves alone. Needs an even number of images per
    # replica.
    config.augment.mixup_alpha = 0.0
    config.augment.cutmix_probability = 0.0

    config.optimizer = ml_collections.ConfigDict()
    # sgd with Nesterov momentum, or adam (Kingma and Ba 2015, arXiv:1412.6980).
    config.optimizer.name = "sgd"
    # Learning rate at the end of the warm-up. The common rule for sgd is 0.1
    # per 128 images of the global batch.
    config.optimizer.peak_learning_rate = 0.4
    # Momentum of sgd, beta 1 of adam.
    config.optimizer.momentum = 0.9
    # Weight decay of kernels. sgd: coupled, added to the gradient, as in
    # PyTorch and unlike Keras. adam: decoupled, times the learning rate
    # (AdamW, arXiv:1711.05101).
    config.optimizer.weight_decay = 5e-4
    # Epochs of linear warm-up from 0.
    config.optimizer.warmup_epochs = 6.0
    # Decay to 0 after the warm-up.
    config.optimizer.schedule = "linear"
    # Fraction of the target that is spread evenly over the classes.
    config.optimizer.label_smoothing = 0.1
    # Decay of the exponential moving average of weights and batch statistics,
    # per step. The average is what is evaluated. 0.0: no average.
    config.optimizer.ema_decay = 0.995
    # Largest global norm of the gradient, after the sum over replicas. 0.0: no
    # clipping.
    config.optimizer.clip_norm = 0.0

    config.evaluate = ml_collections.ConfigDict()
    # Epochs between two evaluations. 0.0: only at the end.
    config.evaluate.every_epochs = 5.0
    # Images per step of evaluation, over all replicas. Rounded up to a multiple
    # of their number.
    config.evaluate.global_batch_size = 1000
    # Flip TTA in the last evaluation, which then takes twice as long.
    config.evaluate.tta = True

    config.checkpoint = ml_collections.ConfigDict()
    # Steps between two checkpoints. 0: at the end of an epoch, at least 30 s
    # apart.
    config.checkpoint.every_steps = 0
    # Number of checkpoints that are kept.
    config.checkpoint.keep = 2
    # Policy for a loss, gradient or weight that is not finite. stop: exit code
    # 5; rollback: resumes from the newest checkpoint at half the learning rate,
    # at most three times.
    config.checkpoint.on_nonfinite = "stop"

    config.distribute = ml_collections.ConfigDict()
    # auto, mirrored: all GPUs of this machine, else its CPU; multi_worker:
    # several machines (docs/distributed.md).
    config.distribute.strategy = "auto"
    # Number of replicas that the CPU is split into, for tests. 0: no split.
    config.distribute.logical_devices = 0
    # Batch statistics over all replicas; slower, and without XLA.
    config.distribute.sync_batch_norm = False
    # Smallest number of GPUs, else exit code 69. 0 allows a CPU.
    config.distribute.require_gpus = 0
    # Sum over GPUs. hierarchical is for machines where NCCL fails.
    config.distribute.all_reduce = "auto"

    return config
