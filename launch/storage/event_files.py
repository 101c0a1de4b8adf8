"""Rewinds TensorBoard's files to the step from which a run resumes.

A killed run may have written events of steps that it will repeat, which TensorBoard would
show twice. Or it may have written a checkpoint but not yet its events.
"""

import os
import pathlib
from collections.abc import Iterable, Iterator

import tensorflow as tf

_PATTERN = "events.out.tfevents.*"
_JOINED = "events.out.tfevents.{:010d}.joined.v2"


def go_back(folder: pathlib.Path, step: int) -> set[tuple[str, int]]:
    """Keeps the events up to a step, each once, in one file.

    A kill at any moment loses nothing: the old files are removed after the new one is
    complete.

    Args:
      folder: the folder of the events; may be missing. Nothing may be writing there.
      step: the last step to keep.

    Returns:
      (tag, step) of the events that were kept.
    """
    old = sorted(folder.glob(_PATTERN))
    kept: dict[tuple[str, int], bytes] = {}
    for record, event in _events(old):
        tags = [value.tag for value in event.summary.value]
        # TensorFlow writes one value per event.
        if tags and event.step <= step:
            kept.setdefault((tags[0], event.step), record)
    if old:
        part = folder / ".part-events"
        with tf.io.TFRecordWriter(str(part)) as writer:
            version = tf.compat.v1.Event(file_version="brain.Event:2")
            for record in (version.SerializeToString(), *kept.values()):
                writer.write(record)
        # TensorBoard reads files in the order of their names, which begin with a time:
        # here that of the oldest of the joined files.
        first = int(old[0].name.split(".")[3])
        joined = folder / _JOINED.format(first)
        os.replace(part, joined)
        for path in old:
            if path != joined:
                path.unlink()
    return set(kept)


def _events(
    paths: Iterable[pathlib.Path],
) -> Iterator[tuple[bytes, tf.compat.v1.Event]]:
    for path in paths:
        records = iter(tf.data.TFRecordDataset(str(path)))
        while True:
            try:
                record = next(records).numpy()
            except (StopIteration, tf.errors.DataLossError):
                break  # a kill has truncated the last event
            yield record, tf.compat.v1.Event.FromString(record)
