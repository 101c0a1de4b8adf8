"""TensorBoard's files, brought back to where a run stands when it goes on.

A killed run may have written events of steps that it will take again, or have a
checkpoint whose events it did not come to write. TensorBoard would show the first twice.
"""

import os
import pathlib
from collections.abc import Iterable, Iterator

import tensorflow as tf

_PATTERN = "events.out.tfevents.*"
_JOINED = "events.out.tfevents.{:010d}.joined.v2"


def go_back(folder: pathlib.Path, step: int) -> set[tuple[str, int]]:
    """Leaves the events up to a step, each once, in one file.

    A kill at any moment loses nothing: the old files go when the new one is whole.

    Args:
      folder: of the events; may be missing. Nobody may be writing there.
      step: the last that counts.

    Returns:
      (tag, step) of the events that there are now.
    """
    old = sorted(folder.glob(_PATTERN))
    kept: dict[tuple[str, int], bytes] = {}
    for record, event in _events(old):
        tags = [value.tag for value in event.summary.value]
        # TensorFlow writes one value an event.
        if tags and event.step <= step:
            kept.setdefault((tags[0], event.step), record)
    if old:
        part = folder / ".part-events"
        with tf.io.TFRecordWriter(str(part)) as writer:
            version = tf.compat.v1.Event(file_version="brain.Event:2")
            for record in (version.SerializeToString(), *kept.values()):
                writer.write(record)
        # TensorBoard reads files in the order of their names: by their time, the oldest
        # of them that are joined here.
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
                break  # a kill has cut the last event short
            yield record, tf.compat.v1.Event.FromString(record)
