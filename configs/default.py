"""Every field of the job, once, with its unit; other configs change a few.

    python -m job.main --config=configs/default.py --workdir=runs/a

On its own this file is the 30-epoch recipe of `configs/stem32.py`, which is
the file to run: see there for time and accuracy. Any field can be set on the
command line, `--config.optimizer.momentum=0.8`; `--mode=config` prints the
result. A strength of 0.0 is off, and costs nothing.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the config with every field that the job knows."""
    config = ml_collections.ConfigDict()

    # Fixes the initial weights, the order of the images and the augmentation.
    config.seed = 0
    # Passes over the training images.
    config.epochs = 30.0
    # Training steps; 0: as many as `epochs` asks for.
    config.steps = 0
    # Images a step, over all replicas. A multiple of the replica count.
    config.global_batch_size = 512
    # Of the forward and backward pass: float32, bfloat16 or float16. Weights,
    # moments, loss and evaluation are float32 always.
    config.precision = "bfloat16"
    # Steps a call of the compiled loop; 0: as many as fit in 2 seconds.
    config.steps_per_loop = 0
    # Steps between two lines of metrics.jsonl.
    config.log_every_steps = 50
    # XLA for the forward and backward pass: auto (on GPUs only), on, off.
    config.jit_compile = "auto"

    config.data = ml_collections.ConfigDict()
    # auto (what data.dir holds), tfds, binary or synthetic.
    config.data.source = "auto"
    # Folder or .tar.gz; gs:// of the .tar.gz; "": what tensorflow-datasets
    # keeps, or downloads.
    config.data.dir = ""
    # sha256 of the .tar.gz, in hexadecimal; "": that of the official archive.
    config.data.archive_sha256 = ""
    # Share of the training images held out and scored instead of the test
    # images; for tuning. 0.0: train on all, score the test images.
    config.data.validation_fraction = 0.0
    # Number of images to use, sampled once for all seeds. 0 uses all of them.
    config.data.train_images = 0
    config.data.test_images = 0
    # How many images the synthetic source draws.
    config.data.synthetic_train_images = 8000
    config.data.synthetic_test_images = 2000

    config.model = ml_collections.ConfigDict()
    # Multiplies the filters of every convolution (64 to 512).
    config.model.width = 1.0
    # Filters of the first block's convolutions; 0: 64 * width.
    config.model.stem_filters = 0
    # End of each block: max or avg.
    config.model.pooling = "max"
    # False: convolutions with biases, as VGG was published.
    config.model.batch_norm = True
    # Share of the old running moments that a step keeps, 0 to 1. Keras' .99
    # is too slow for short runs.
    config.model.batch_norm_momentum = 0.9
    # Added to the variance.
    config.model.batch_norm_epsilon = 1e-5
    # he_fan_out (He et al. 2015), glorot (Keras' own), torch (PyTorch's own) or
    # dirac: he_fan_out, but the first filters hand each channel on unchanged.
    config.model.init = "he_fan_out"
    # What becomes of the last block's map: avg (over its pixels) or flatten.
    # At 32 px it is one pixel, and both are the same.
    config.model.head_pooling = "avg"
    # Units of the dense layers between the map and the logits: (4096, 4096) in
    # VGG16 as published.
    config.model.head_units = ()
    # Share of the units set to 0 after each of them (without any: of the
    # map), in training.
    config.model.dropout = 0.0
    # Where the convolutions start from: "" (see init), imagenet (downloads
    # what keras.applications has), or a path or gs:// of Keras' VGG16 without
    # its top, .h5 or .weights.h5.
    config.model.weights = ""
    # What is done to pixels first. auto: what the weights were trained with;
    # standardize: CIFAR-10's own mean and deviation; caffe: BGR less
    # ImageNet's mean; unit: 0 to 1.
    config.model.preprocessing = "auto"
    # Side in pixels to which images are scaled up before the first layer; 32
    # leaves them as they are. A multiple of 32.
    config.model.input_size = 32
    # How: nearest, bilinear or bicubic.
    config.model.upsampling = "bilinear"
    # Progressive resizing: the first size up to the first of these epochs, and
    # so on, input_size from the last one to the end; (): input_size always.
    # Multiples of 8 from 16 on: below 32, images are scaled down.
    config.model.progressive_sizes = ()
    config.model.progressive_epochs = ()

    config.transfer = ml_collections.ConfigDict()
    # The epoch at which a block begins to train; inf: it stays frozen. From
    # the output on: no block opens before the next one. The head is
    # always open.
    config.transfer.unfreeze_epochs = ml_collections.ConfigDict()
    config.transfer.unfreeze_epochs.block1 = 0.0
    config.transfer.unfreeze_epochs.block2 = 0.0
    config.transfer.unfreeze_epochs.block3 = 0.0
    config.transfer.unfreeze_epochs.block4 = 0.0
    config.transfer.unfreeze_epochs.block5 = 0.0
    # A block's learning rate, times that of the next one (the head's
    # is the schedule's); 1.0: the same for all (Howard & Ruder 2018, ULMFiT,
    # arXiv:1801.06146).
    config.transfer.layer_decay = 1.0
    # Epochs in which a block's rate climbs from 0 after it has opened.
    config.transfer.warmup_epochs = 0.0

    # docs/augmentation.md says exactly what each field does, and what it costs.
    config.augment = ml_collections.ConfigDict()
    # keras_classic, crop_flip or strong (configs/augment_presets.py): replaces
    # all fields below but those on the command line. "": nothing is replaced.
    config.augment.preset = ""
    # none, random (each image, each time) or alternating (each image every
    # other epoch; Jordan 2024, arXiv:2404.00498).
    config.augment.flip = "alternating"
    # Most pixels that an image is moved by, each way; a whole number.
    config.augment.translate = 4.0
    # What comes in from outside: reflect, nearest or zero (black).
    config.augment.fill = "reflect"
    # One affine map, as Keras' ImageDataGenerator composes it: largest angle
    # each way; largest shift each way, as a share of height and width; largest
    # shear angle each way, in DEGREES; height and width times 1 - zoom to 1 +
    # zoom.
    config.augment.rotation_degrees = 0.0
    config.augment.shift = 0.0
    config.augment.shear = 0.0
    config.augment.zoom = 0.0
    # Factors from 1 - strength to 1 + strength, at least 0; hue: largest turn
    # each way, 0.5 is half the circle.
    config.augment.brightness = 0.0
    config.augment.contrast = 0.0
    config.augment.saturation = 0.0
    config.augment.hue = 0.0
    # Share of the images that AutoAugment's CIFAR-10 policy changes; 1.0 is the
    # torchvision's (Cubuk et al. 2019, arXiv:1805.09501).
    config.augment.autoaugment = 0.0
    # RandAugment, two operations an image: 0 to 10, 10 the largest (Cubuk et
    # al. 2020, arXiv:1909.13719). Torchvision's 9 of 30 is 3.0 here.
    config.augment.randaugment_magnitude = 0.0
    # Side of the square that is painted over, in pixels; a whole number.
    config.augment.cutout_pixels = 8.0
    # Images are mixed in pairs, with their labels; an even number of images a
    # replica. mixup: the share is from Beta(alpha, alpha) (Zhang et al. 2018,
    # arXiv:1710.09412). CutMix: share of the pairs (Yun et al. 2019,
    # arXiv:1905.04899, alpha 1). With both, a pair that CutMix leaves alone is
    # mixed by mixup.
    config.augment.mixup_alpha = 0.0
    config.augment.cutmix_probability = 0.0

    config.optimizer = ml_collections.ConfigDict()
    # sgd (Nesterov) or adam (Kingma & Ba 2015, arXiv:1412.6980).
    config.optimizer.name = "sgd"
    # Learning rate at the end of the warm-up; 0.1 for each 128 images of
    # the global batch is the common rule.
    config.optimizer.peak_learning_rate = 0.4
    # Nesterov momentum; of adam, beta 1.
    config.optimizer.momentum = 0.9
    # Coupled, as PyTorch's: added to the gradient, times the weight. Kernels
    # only. (Keras' own weight_decay is decoupled: another quantity.) With adam
    # it is decoupled too, times the rate (AdamW; arXiv:1711.05101).
    config.optimizer.weight_decay = 5e-4
    # Epochs of linear warm-up from 0.
    config.optimizer.warmup_epochs = 6.0
    # After the warm-up, to 0 at the last step: cosine or linear; or constant.
    config.optimizer.schedule = "linear"
    # Share of the target that is spread evenly over the ten classes.
    config.optimizer.label_smoothing = 0.1
    # Share of the old average that a step keeps: weights and running
    # moments, averaged; what is evaluated. 0.0: no averaging.
    config.optimizer.ema_decay = 0.995
    # Largest global norm of the gradient, after the sum over replicas.
    config.optimizer.clip_norm = 0.0

    config.evaluate = ml_collections.ConfigDict()
    # Epochs between two evaluations; 0.0: only at the end. The end always.
    config.evaluate.every_epochs = 5.0
    # Images a step of evaluation, over all replicas; rounded up to a multiple
    # of them.
    config.evaluate.global_batch_size = 1000
    # Scores the mirror images too at the end, which takes twice as long.
    config.evaluate.tta = True

    config.checkpoint = ml_collections.ConfigDict()
    # Training steps between two checkpoints; 0: once an epoch, where one takes
    # 30 s or more, else at the first epoch's end 30 s after the last save.
    config.checkpoint.every_steps = 0
    # How many are kept; at least 2.
    config.checkpoint.keep = 2
    # Where a loss, gradient or weight is not finite: stop (exit 5), or
    # rollback: go on from the newest checkpoint at half the rate, three times
    # at most.
    config.checkpoint.on_nonfinite = "stop"

    config.distribute = ml_collections.ConfigDict()
    # auto or mirrored: all GPUs of this machine, else its CPU; multi_worker:
    # those of several machines (docs/distributed.md).
    config.distribute.strategy = "auto"
    # Splits the CPU into that many replicas, for tests; 0: no split.
    config.distribute.logical_devices = 0
    # Batch moments over all replicas; slower, and without XLA.
    config.distribute.sync_batch_norm = False
    # Fewest GPUs to run on, else exit 69; 0: a CPU will do.
    config.distribute.require_gpus = 0
    # Sum over GPUs: auto or nccl, or hierarchical where NCCL fails.
    config.distribute.all_reduce = "auto"

    return config
