"""The flags of the data and of the model."""

from launch.config.flag import AT_LEAST_0, AT_LEAST_1, SHARE, WIDTH, Flag

TRAINED = (
    "Data and model",
    (
        Flag(
            "string",
            "dataset",
            "digits",
            "digits (bundled), cifar10, cifar100, imagenet2012; text: python "
            "(bundled), enwik8, text8, wikitext103, wikitext2, bytes, words",
        ),
        Flag(
            "string",
            "data_dir",
            None,
            "folder of prepared tensorflow-datasets (default $TFDS_DATA_DIR, else "
            "~/tensorflow_datasets), or of a text",
            affects_result=False,
        ),
        Flag(
            "integer",
            "train_examples",
            None,
            "train on the first N examples of a fixed permutation; default all",
            AT_LEAST_1,
            data="image",
        ),
        Flag(
            "integer",
            "crop_padding",
            None,
            "pixels of zeros around a training image before its random crop, less than its "
            "height; 0: no crop; default by data set",
            AT_LEAST_0,
            data="image",
        ),
        Flag(
            "string",
            "model",
            None,
            "resnet8, resnet20, resnet32, resnet56, fast_resnet, wrn16_8 (any "
            "wrn<depth>_<width>), resnet18_cifar, vgg16_cifar, densenet121_cifar; for 224 "
            "pixels resnet18, 34, 50, 101, 152, wrn50_2; for text txl_small, txl_medium, "
            "enwik8_base, enwik8_large, wikitext103_base, wikitext103_large, ...; default "
            "by data set",
        ),
        Flag(
            "float",
            "width",
            1.0,
            "factor on the number of channels of an image model, or on the widths of a "
            "Transformer-XL, at most 100",
            range=WIDTH,
        ),
    ),
)

TEXT = (
    "Text",
    (
        Flag(
            "integer",
            "segment_length",
            None,
            "tokens of a segment in training; default by model",
            AT_LEAST_1,
            data="text",
        ),
        Flag(
            "integer",
            "memory_length",
            None,
            "states of earlier segments that are remembered; default by model",
            AT_LEAST_0,
            data="text",
        ),
        Flag(
            "integer",
            "evaluation_segment",
            None,
            "tokens of a segment in evaluation; default by model",
            AT_LEAST_1,
            data="text",
        ),
        Flag(
            "integer",
            "evaluation_memory",
            None,
            "states remembered in evaluation; default by model",
            AT_LEAST_0,
            data="text",
        ),
        Flag(
            "integer",
            "evaluation_batch",
            10,
            "rows of the text in evaluation; each starts without memory",
            AT_LEAST_1,
            data="text",
        ),
        Flag(
            "float",
            "dropout",
            None,
            "in [0, 1); default by model",
            range=SHARE,
            data="text",
        ),
        Flag(
            "float",
            "attention_dropout",
            None,
            "in [0, 1); default by model",
            range=SHARE,
            data="text",
        ),
        Flag(
            "boolean",
            "sparse_embeddings",
            False,
            "make embedding and softmax sparse too (Top-KAST only)",
            data="text",
        ),
        Flag(
            "string",
            "text_cache",
            None,
            "folder of the encoded text; default next to the text",
            data="text",
            affects_result=False,
        ),
    ),
)
