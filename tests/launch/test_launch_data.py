"""Images and batches: values, not only shapes."""

import os
import time

import numpy as np
import pytest
import tensorflow as tf

from launch import data
from launch.data import augment, cifar10, digits, pipeline
from launch.support.errors import UserError


@pytest.fixture(scope="module")
def images():
    return digits.load(None)


# --- Augmentation --------------------------------------------------------------------


def test_crop_moves_each_image_by_its_own_offset():
    rng = np.random.RandomState(0)
    batch = rng.randint(1, 256, (6, 5, 7, 3)).astype("uint8")
    offsets = np.array([[0, 0], [2, 2], [4, 4], [0, 4], [3, 1], [1, 2]], "int32")
    found = augment.crop(tf.constant(batch), tf.constant(offsets), padding=2).numpy()
    padded = np.pad(batch, [(0, 0), (2, 2), (2, 2), (0, 0)])
    for image, (down, right), out in zip(padded, offsets, found, strict=True):
        np.testing.assert_array_equal(out, image[down : down + 5, right : right + 7])
    np.testing.assert_array_equal(found[1], batch[1])
    # Two pixels down and right: the first image's own corner is at (2, 2).
    np.testing.assert_array_equal(found[0, 2:, 2:], batch[0, :3, :5])
    assert not found[0, :2].any() and not found[0, :, :2].any()


def test_flip_mirrors_only_the_selected_images():
    batch = np.arange(2 * 2 * 3 * 1, dtype="uint8").reshape(2, 2, 3, 1)
    found = augment.flip(tf.constant(batch), tf.constant([True, False])).numpy()
    np.testing.assert_array_equal(found[0, :, :, 0], [[2, 1, 0], [5, 4, 3]])
    np.testing.assert_array_equal(found[1], batch[1])


def test_normalise_by_hand():
    batch = tf.constant([[[[255, 0, 51]]]], tf.uint8)
    spec = data.ImageData(
        *[np.zeros(0)] * 4,
        classes=2,
        scale=255.0,
        mean=(0.5, 0.25, 0.1),
        std=(0.5, 0.5, 0.2),
    )
    found = pipeline.normalise(batch, spec).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0, 0], [1.0, -0.5, 0.5], rtol=1e-6)


def colour_data(examples, **options):
    """Random images, in which a shift or a flip can be recognised."""
    rng = np.random.RandomState(1)
    pixels = rng.randint(1, 256, (examples, 4, 4, 1)).astype("uint8")
    labels = np.arange(examples, dtype="int64")
    return data.ImageData(
        pixels, labels, pixels[:3], labels[:3], examples, 1.0, (0.0,), (1.0,), **options
    )


def test_batches_hold_a_shifted_or_mirrored_copy_of_the_labelled_image():
    source = colour_data(12, padding=1, flip=True)
    batches = pipeline.training_batches(
        source, batch_size=4, seed=5, first_step=0, steps=60
    )
    shifts, mirrored, total = set(), 0, 0
    for x, y in batches:
        for image, label in zip(x.numpy(), y.numpy().argmax(-1), strict=True):
            original = source.train_images[label].astype("float32")
            matches = [
                (down, right, mirror)
                for down in range(3)
                for right in range(3)
                for mirror in (False, True)
                if np.array_equal(image, _moved(original, down, right, mirror))
            ]
            assert len(matches) == 1
            down, right, mirror = matches[0]
            shifts.add((down, right))
            mirrored += mirror
            total += 1
    assert len(shifts) == 9
    assert 0.35 < mirrored / total < 0.65


def _moved(image, down, right, mirror):
    out = np.pad(image, [(1, 1), (1, 1), (0, 0)])[down : down + 4, right : right + 4]
    return out[:, ::-1] if mirror else out


def test_without_augmentation_images_are_untouched():
    source = colour_data(5)
    batches = pipeline.training_batches(
        source, batch_size=5, seed=0, first_step=0, steps=1
    )
    ((x, y),) = list(batches)
    order = y.numpy().argmax(-1)
    np.testing.assert_array_equal(x, source.train_images[order].astype("float32"))


# --- Order ---------------------------------------------------------------------------


def drawn(**options):
    asked = {"batch_size": 4, "seed": 0, "first_step": 0, "steps": 6} | options
    return [(int(s), i.numpy().tolist()) for s, i in pipeline.indices(14, **asked)]


def test_an_epoch_is_a_permutation_split_into_full_batches():
    steps = drawn(steps=9)
    assert [step for step, _ in steps] == list(range(9))
    epochs = [sum((i for _, i in steps[k : k + 3]), []) for k in (0, 3, 6)]
    for epoch in epochs:
        assert len(set(epoch)) == 12
        assert set(epoch) <= set(range(14))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    # Each epoch leaves out other examples.
    assert len({frozenset(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("first", [1, 3, 4, 8])
def test_order_from_any_step_equals_the_whole_run(first):
    assert drawn(first_step=first, steps=12 - first) == drawn(steps=12)[first:]


def test_order_depends_on_the_seed():
    assert drawn(seed=1) != drawn(seed=0)
    assert drawn(seed=1) == drawn(seed=1)


def test_batches_from_any_step_equal_the_whole_run_bitwise(images):
    def batches(first, steps):
        return list(
            pipeline.training_batches(
                images, batch_size=64, seed=3, first_step=first, steps=steps
            )
        )

    whole, rest = batches(0, 26), batches(21, 5)
    for (x, y), (x_again, y_again) in zip(whole[21:], rest, strict=True):
        assert x.numpy().tobytes() == x_again.numpy().tobytes()
        assert y.numpy().tobytes() == y_again.numpy().tobytes()


# --- Digits --------------------------------------------------------------------------


def test_digits_are_split_once_and_stratified(images):
    assert images.train_images.shape == (1437, 8, 8, 1)
    assert images.test_images.shape == (360, 8, 8, 1)
    assert images.train_images.dtype == np.uint8
    train = np.bincount(images.train_labels) / 1437
    test = np.bincount(images.test_labels) / 360
    np.testing.assert_allclose(train, test, atol=0.003)
    again = digits.load(None)
    np.testing.assert_array_equal(again.test_images, images.test_images)


def test_digits_train_and_test_do_not_share_images(images):
    train = {image.tobytes() for image in images.train_images}
    assert not any(image.tobytes() in train for image in images.test_images)


def test_digits_constants_are_those_of_the_training_set(images):
    pixels = images.train_images / images.scale
    assert images.train_images.max() == images.scale
    np.testing.assert_allclose(images.mean, pixels.mean(), atol=5e-4)
    np.testing.assert_allclose(images.std, pixels.std(), atol=5e-4)


def test_subset_is_a_prefix_of_one_permutation(images):
    small, large = images.subset(100), images.subset(300)
    np.testing.assert_array_equal(small.train_images, large.train_images[:100])
    np.testing.assert_array_equal(small.train_labels, large.train_labels[:100])
    assert len(set(small.train_labels)) == 10
    assert images.subset(1437) is images
    assert len(small.test_images) == 360


# --- CIFAR-10 ------------------------------------------------------------------------


def test_missing_cifar10_fails_immediately_with_instructions(tmp_path):
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        cifar10.check(str(tmp_path))
    assert time.perf_counter() - start < 1
    said = str(caught.value)
    assert str(tmp_path) in said
    assert "--data_dir" in said and "download_and_prepare" in said
    assert "\n" not in said


def test_missing_cifar10_names_the_folder_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="elsewhere"):
        cifar10.check(None)
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}/tensorflow_datasets"):
        cifar10.check(None)


def test_newest_prepared_version_is_used(tmp_path):
    for version in ("3.0.2", "3.0.10", "2.9.9", "3.1.incomplete"):
        folder = tmp_path / "cifar10" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
    assert cifar10.prepared(str(tmp_path)).name == "3.0.10"


@pytest.fixture(scope="module")
def cifar():
    folder = os.environ.get("TOPKAST_TEST_DATA")
    if not folder:
        pytest.skip("TOPKAST_TEST_DATA names no folder with tfds/cifar10")
    return cifar10.load(os.path.join(folder, "tfds"))


def test_cifar10_is_read_completely(cifar):
    assert cifar.train_images.shape == (50_000, 32, 32, 3)
    assert cifar.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(cifar.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar.test_labels).tolist() == [1000] * 10


@pytest.mark.slow
def test_cifar10_constants_are_those_of_the_training_set(cifar):
    pixels = cifar.train_images.reshape(-1, 3) / np.float32(255)
    # The constants are those of the original images; where the data was stored as
    # JPEG its colours are off by up to 1.3 of 255.
    np.testing.assert_allclose(cifar.mean, pixels.mean(0, dtype="float64"), atol=6e-3)
    np.testing.assert_allclose(cifar.std, pixels.std(0, dtype="float64"), atol=6e-3)


def test_cifar10_batches_are_normalised_and_balanced(cifar):
    batches = pipeline.training_batches(
        cifar, batch_size=500, seed=0, first_step=0, steps=4
    )
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert x.shape == (2000, 32, 32, 3)
    # The black border of the crops lowers the mean a little.
    assert -0.4 < x.mean() < 0.1
    assert 0.8 < x.std() < 1.3
    assert (y.sum(0) > 140).all()


# --- Shards --------------------------------------------------------------------------


def test_shards_concatenate_to_one_augmented_batch():
    source = colour_data(13, padding=1, flip=True)

    def batches(**options):
        return list(
            pipeline.training_batches(
                source, batch_size=6, seed=2, first_step=1, steps=5, **options
            )
        )

    whole = batches()
    parts = zip(*(batches(shard=(i, 3)) for i in range(3)), strict=True)
    for (x, y), workers in zip(whole, parts, strict=True):
        shards_x, shards_y = zip(*workers, strict=True)
        assert shards_x[0].shape == (2, 4, 4, 1)
        np.testing.assert_array_equal(np.concatenate(shards_x), x)
        np.testing.assert_array_equal(np.concatenate(shards_y), y)
    with pytest.raises(UserError, match="multiple of the number of workers, 4"):
        batches(shard=(0, 4))


def test_a_source_either_loads_or_streams():
    with pytest.raises(ValueError, match="Received: load=None, stream=None"):
        data.Source("none", 1, (1, 1, 1), 2, "resnet8", cifar10.check)
    found = data.find("digits")
    assert found.kind == "image"
    assert len(found.open(None).test_images) == 360
