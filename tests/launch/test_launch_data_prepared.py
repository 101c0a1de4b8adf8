"""Images that tensorflow-datasets has prepared: CIFAR-100, and ImageNet as a stream."""

import io
import json
import os
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from launch import data
from launch.data import augment, pipeline, streaming
from launch.data.randomness import CROP, seed_of
from launch.support.errors import UserError

TRAIN, TEST = 37, 5


def picture(number):
    """A smooth image, so that JPEG changes it little; its size varies."""
    height, width = 40 + number % 3 * 10, 40 + number % 5 * 8
    down = np.linspace(0, 200, height)[:, None]
    right = np.linspace(0, 200, width)[None]
    channels = [down + 0 * right, right + 0 * down, 0 * down + 0 * right + 5 * number]
    return np.stack(channels, -1).round().astype("uint8")


def prepare(folder, dataset, splits, features, examples, version):
    """Writes a tiny data set in the layout that tensorflow-datasets prepares."""
    import tensorflow_datasets as tfds

    class Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features(tfds))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            yield from examples(split)

    Written(data_dir=str(folder)).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=3)
    )
    return str(folder)


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=98, subsampling=0)
    return file.getvalue()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A folder with `imagenet2012/5.1.0`; image k has class k."""

    def examples(split):
        first, count = (0, TRAIN) if split == "train" else (TRAIN, TEST)
        for k in range(first, first + count):
            image = io.BytesIO(jpeg(picture(k)))
            yield k, {"image": image, "label": k, "file_name": f"{k}.JPEG"}

    return prepare(
        tmp_path_factory.mktemp("imagenet"),
        "imagenet2012",
        ("train", "validation"),
        lambda tfds: tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=1000),
                "file_name": tfds.features.Text(),
            }
        ),
        examples,
        "5.1.0",
    )


@pytest.fixture(scope="module")
def stream(imagenet):
    source = data.find("imagenet2012")
    source.check(imagenet)
    return source.open(imagenet)


def batches(stream, **options):
    asked = {"batch_size": 4, "seed": 0, "first_step": 0, "steps": 5} | options
    found = streaming.training_batches(stream, **asked)
    return [(x.numpy(), y.numpy().argmax(-1)) for x, y in found]


@pytest.fixture(scope="module")
def three_epochs(stream):
    """The first 27 batches, nine per epoch."""
    return batches(stream, steps=27)


# --- Missing and damaged data --------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet2012"])
def test_missing_data_fails_immediately_with_instructions(tmp_path, name):
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        data.find(name).check(str(tmp_path))
    assert time.perf_counter() - start < 1
    said = str(caught.value)
    assert str(tmp_path) in said and "--data_dir" in said
    assert f"builder('{name}'" in said and "\n" not in said


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("absent", "expected 3 files of its train part, received 2"),
        ("short", "bytes of its train part, received"),
        ("dataset_info.json", "dataset_info.json cannot be read"),
        ("features.json", "features.json cannot be read"),
    ],
)
def test_damaged_data_is_reported_immediately(imagenet, tmp_path, damage, expected):
    folder = tmp_path / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    original = os.path.join(imagenet, "imagenet2012", "5.1.0")
    for name in os.listdir(original):
        os.link(os.path.join(original, name), folder / name)
    check = data.find("imagenet2012").check
    check(str(tmp_path))
    file = next(folder.glob("*train*-00001-*"))
    if damage.endswith(".json"):
        file = folder / damage
    content = file.read_bytes()
    file.unlink()
    if damage != "absent":
        file.write_bytes(content[: len(content) // 2])
    start = time.perf_counter()
    with pytest.raises(UserError, match=expected) as caught:
        check(str(tmp_path))
    assert time.perf_counter() - start < 1
    assert str(folder) in str(caught.value)


def test_the_stream_knows_its_files(stream):
    assert stream.train_examples == TRAIN and len(stream.train_files) == 3
    assert stream.image_shape == (224, 224, 3) and stream.classes == 1000
    assert stream.subset(TRAIN) is stream
    with pytest.raises(UserError, match="all 37 examples. Received: 10"):
        stream.subset(10)


def test_cifar100_is_read_completely(tmp_path):
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (9, 32, 32, 3)).astype("uint8")

    def examples(split):
        for k in range(6) if split == "train" else range(6, 9):
            yield k, {"id": str(k), "image": images[k], "coarse_label": 0, "label": k}

    folder = prepare(
        tmp_path,
        "cifar100",
        ("train", "test"),
        lambda tfds: tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "coarse_label": tfds.features.ClassLabel(num_classes=20),
                "label": tfds.features.ClassLabel(num_classes=100),
            }
        ),
        examples,
        "3.0.2",
    )
    source = data.find("cifar100")
    source.check(folder)
    found = source.open(folder)
    assert found.classes == 100 and source.train_examples == 50_000
    assert sorted(found.train_labels) == list(range(6))
    np.testing.assert_array_equal(found.train_images, images[found.train_labels])
    np.testing.assert_array_equal(found.test_images, images[found.test_labels])
    file = next((tmp_path / "cifar100" / "3.0.2").glob("*train*tfrecord*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    source.check(folder)
    with pytest.raises(UserError, match="a record of its train part cannot be read"):
        source.open(folder)


# --- Crops ---------------------------------------------------------------------------


def boxes(height, width, count):
    def box(k):
        return augment.random_box(height, width, seed_of(0, CROP, k))

    return np.array([*tf.data.Dataset.range(count).map(box).as_numpy_iterator()])


def test_random_boxes_have_the_requested_area_and_aspect():
    found = boxes(480, 480, 4000)
    top, left, height, width = found.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 480).all() and (left + width <= 480).all()
    area, aspect = height * width / 480**2, width / height
    assert area.min() > 0.078 and area.max() <= 1
    assert 0.74 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.35
    # Wide and tall boxes are equally likely.
    assert abs(np.log(aspect).mean()) < 0.012
    # Small areas always fit, so below 3/4 (a box of any aspect fits) the area is uniform.
    small = area[area < 0.74]
    shares = np.histogram(small, bins=4, range=(0.08, 0.74))[0] / len(small)
    np.testing.assert_allclose(shares, 0.25, atol=0.035)
    # Positions are sampled uniformly.
    for start, size in ((top, height), (left, width)):
        room = 480 - size
        share = start[room > 100] / room[room > 100]
        assert abs(share.mean() - 0.5) < 0.02 and abs(share.std() - 12**-0.5) < 0.02


def test_random_boxes_of_a_narrow_image():
    # No box of 8 % of the area with an aspect of at least 3/4 is as narrow as this.
    for box in boxes(1000, 20, 50):
        assert box.tolist() == [486, 0, 27, 20]
    for box in boxes(20, 1000, 50):
        assert box.tolist() == [0, 486, 20, 27]
    for box in boxes(1, 1, 5):
        assert box.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 301), (256, 256)])
def test_central_crop_equals_pillow(height, width):
    down, right = np.mgrid[:height, :width]
    image = np.stack(
        [
            down * 255 // height,
            right * 255 // width,
            127 + 120 * np.sin(down / 9) * np.cos(right / 7),
        ],
        -1,
    ).astype("uint8")
    found = augment.central_crop(tf.constant(image), 256, 224, 224).numpy()
    shorter = min(height, width)
    high, wide = 256 * height // shorter, 256 * width // shorter
    resized = Image.fromarray(image).resize((wide, high), Image.Resampling.BILINEAR)
    top, left = (high - 224) // 2, (wide - 224) // 2
    expected = np.asarray(resized)[top : top + 224, left : left + 224]
    # Pillow rounds to whole numbers.
    np.testing.assert_allclose(found, expected, atol=1.01)
    assert np.abs(found - expected).mean() < 0.4
    if (height, width) == (256, 256):
        np.testing.assert_array_equal(found, image[16:240, 16:240])


# --- The stream ----------------------------------------------------------------------


def denormalised(x):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return (x * std + mean) * 255


def test_evaluation_takes_each_image_once_cropped_and_normalised(stream):
    found = list(pipeline.evaluation_batches(stream, 2))
    assert [len(x) for x, _ in found] == [2, 2, 1]
    x, y = (np.concatenate(part) for part in zip(*found, strict=True))
    labels = y.argmax(-1)
    assert sorted(labels) == list(range(TRAIN, TRAIN + TEST))
    assert y.shape == (TEST, 1000) and y.dtype == x.dtype == np.float32
    for image, label in zip(denormalised(x), labels, strict=True):
        expected = augment.central_crop(picture(label), 256, 224, 224).numpy()
        assert np.abs(image - expected).max() < 6
        assert np.abs(image - expected).mean() < 1.5


def test_training_images_are_crops_of_the_labelled_image(three_epochs):
    mirrored = []
    for x, labels in three_epochs[:18]:
        assert x.shape == (4, 224, 224, 3) and x.dtype == np.float32
        for image, label in zip(denormalised(x), labels, strict=True):
            # Blue identifies the image, red the row, green the column.
            assert np.abs(image[..., 2] - 5 * label).max() < 6
            down, right = image[:, 112, 0], image[112, :, 1]
            assert down[-1] > down[0] + 20
            mirrored.append(right[0] > right[-1])
            span = abs(right[-1] - right[0])
            assert 20 < span <= 203
            assert np.abs(image[..., 0] - down[:, None]).max() < 6
    assert 0.3 < np.mean(mirrored) < 0.7


def test_each_epoch_has_full_batches_in_its_own_order(stream, three_epochs):
    labels = np.array([y for _, y in three_epochs]).reshape(3, 36)
    for epoch in labels:
        assert len(set(epoch)) == 36 and max(epoch) < TRAIN
    assert len({tuple(epoch) for epoch in labels}) == 3
    other = np.array([y for _, y in batches(stream, steps=9, seed=1)]).ravel()
    assert other.tolist() != labels[0].tolist()
    # Far from the order in the files, also where windows are small.
    small = streaming.training_batches(
        stream, batch_size=4, seed=0, first_step=0, steps=9, window=6
    )
    drawn = np.concatenate([y.numpy().argmax(-1) for _, y in small])
    assert len(set(drawn)) == 36 and drawn.tolist() != labels[0].tolist()


@pytest.mark.parametrize("first", [3, 9, 13])
def test_batches_from_any_step_equal_the_whole_run_bitwise(stream, three_epochs, first):
    whole = three_epochs[:15]
    # Other random numbers in the process have no effect.
    tf.random.set_seed(first)
    rest = batches(stream, first_step=first, steps=15 - first)
    for (x, y), (x_again, y_again) in zip(whole[first:], rest, strict=True):
        assert x.tobytes() == x_again.tobytes()
        assert y.tolist() == y_again.tolist()


def test_shards_concatenate_to_one_batch(stream, three_epochs):
    whole = three_epochs[7:11]
    parts = [
        [
            (x.numpy(), y.numpy().argmax(-1))
            for x, y in pipeline.training_batches(
                stream, batch_size=4, seed=0, first_step=7, steps=4, shard=(i, 2)
            )
        ]
        for i in range(2)
    ]
    for (x, y), *workers in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([w[0] for w in workers]), x)
        np.testing.assert_array_equal(np.concatenate([w[1] for w in workers]), y)


def test_images_are_cropped_differently_in_each_epoch(three_epochs):
    epochs = [{}, {}]
    for step, (x, labels) in enumerate(three_epochs[:18]):
        epochs[step // 9] |= dict(zip(labels, x, strict=True))
    common = epochs[0].keys() & epochs[1].keys()
    assert len(common) > 30
    assert all((epochs[0][k] != epochs[1][k]).any() for k in common)


def test_prepared_info_lists_the_splits(imagenet):
    path = os.path.join(imagenet, "imagenet2012", "5.1.0", "dataset_info.json")
    with open(path) as file:
        splits = {split["name"]: split for split in json.load(file)["splits"]}
    assert set(splits) == {"train", "validation"}
    assert sum(map(int, splits["train"]["shardLengths"])) == TRAIN
