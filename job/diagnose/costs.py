"""Cost of each mistake, and the source of its figure.

This project's figures are in docs/results.md and docs/diagnose.md,
each with the command that reproduces it. They are of one seed and small
budgets, so they tell which of two mistakes is larger, not what a long run would
lose. Other mistakes have a published figure, or only a source and a `rank`.
"""

from job.diagnose.finding import Cost, number_word

_REMEDIES = "docs/results.md, "
_LADDER = _REMEDIES + "make ablate PLAN=ladder, width .25, 5 epochs: "

STUCK = Cost(60.51, _LADDER + "naive 10.00, with batch normalization 70.51")
NO_BATCH_NORM = Cost(
    2.39,
    "da2so/DA2Lite: VGG16 93.22 with, 90.83 without, trained well",
    measured=False,
)
CONSTANT_RATE = Cost(
    7.58,
    _LADDER + "Adam at a constant rate 71.91, SGD with warm-up, a fall to 0"
    " and weight decay 79.49",
)
SHORT_RUN = Cost(
    4.00,
    "docs/results.md, width .5: 81.92 after 4 epochs, 85.92 after 8"
    " (with another weight decay); the more the shorter",
)
LARGE_HEAD = Cost(1.40, _LADDER + "FC 4096 x 2 70.51, 512 -> 10 71.91")
NO_AUGMENTATION = Cost(
    0.26,
    _LADDER + "80.90 without, 81.16 with flip and translation; more the"
    " longer a run is",
)
NO_AUGMENTATION_SYNTHETIC = Cost(
    2.10, "README, make train: 96.60 with, 94.50 without"
)
OVERFITTED = Cost(
    1.7,
    "VGG16-BN, published: crop and flip 94.06 (chenyaofo), AutoAugment and"
    " cutout 95.76 (yhhhli)",
    measured=False,
)
OVER_AUGMENTED = Cost(
    10.38,
    _REMEDIES + "make ablate PLAN=over, width .25, 5 epochs: flip and"
    " translation 80.56, the preset strong 70.18",
)
FROZEN_AT_32 = Cost(
    22.37,
    _REMEDIES + "make train CONFIG=configs/transfer.py: 88.09, opened"
    " block by block; with :frozen 65.72",
)
SMALL_REPLICA_BATCH = Cost(
    None, "Wu & He 2018, arXiv:1803.08494, figure 1; tf #46488", rank=5
)
BATCH_NORM_STATISTICS = Cost(None, "keras PR #9965, #11590, #7177", rank=30)
BATCH_NORM_MOMENTUM = Cost(
    None, "running moments that have not arrived; keras' .99", rank=3
)
WEIGHT_DECAY = Cost(
    None, "keras' weight_decay is decoupled, torch's is not", rank=2
)
RATE_TOO_LOW = Cost(
    39.40,
    "docs/diagnose.md, the ladder's last line: 80.56 at the rule's rate, 41.16"
    " at a hundredth of it",
)
RATE_TOO_HIGH = Cost(
    None, "FluxML/model-zoo #220, geifmany/cifar-vgg #3", rank=45
)
OVERFIT_ONE_BATCH = Cost(
    None, "what cannot learn 32 images cannot learn 50,000", rank=40
)
DEAD_RELUS = Cost(None, "kuangliu/pytorch-cifar #28, mxnet #1968", rank=35)
LABELS = Cost(None, "tf #62460: 10 % while the loss falls", rank=60)
IMBALANCE = Cost(None, "CIFAR-10 has as many of each class", rank=4)
DUPLICATES = Cost(
    None, "Barz & Denzler 2020, arXiv:1902.00423 (ciFAIR)", rank=1
)
SHUFFLING = Cost(None, "tf #36626, #45197", rank=20)
REPLICA_AUGMENTATION = Cost(None, "keras PR #20612", rank=1.5)
SLOW_PRECISION = Cost(0.0, "lambdal's TF 2.3 table, tf #48127")
LOSS_SCALING = Cost(
    None,
    "a published 3-fold comparison of PyTorch, Keras and JAX: about 3 % in"
    " float16 without scale_loss, and 93.79 in float32",
    measured=False,
    rank=90,
)
SOFTMAX_TWICE = Cost(None, "keras #16906, tf #14405", rank=10)
PREPROCESSING = Cost(
    8.01,
    "docs/diagnose.md, configs/transfer.py:frozen with Adam: 65.54 as the"
    " weights know them, 57.53 divided by 255; with a head of 128 units that"
    " overfits, 60.81 and 60.77",
)
DIVERGED = Cost(None, "pytorch-nin-cifar10 #1, tf #90686", rank=50)
FIRST_LOSS = Cost(
    None, "keras-applications #93, szagoruyko/cifar.torch #20", rank=8
)


def at_chance(num_classes: int) -> Cost:
    """Returns the cost of a model that guesses.

    Args:
      num_classes: Number of classes.
    """
    return Cost(
        None,
        f"guessing the {number_word(num_classes)} classes gives"
        f" {100 / num_classes:.0f} %",
        rank=70,
    )


def output_units(num_classes: int) -> Cost:
    """Returns the cost of outputs that are not the classes.

    Args:
      num_classes: Number of classes.
    """
    return Cost(None, f"the labels go from 0 to {num_classes - 1}", rank=45)
