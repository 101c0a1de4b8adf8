"""Runs `launch/train.py` and kills the process, by SIGKILL, at a given point.

kill_driver.py POINT COUNT ARGUMENTS: at the COUNT-th time that POINT is reached, one of
"half a file", "before the name", "after the name", "before best" and "refresh".
"""

import os
import pathlib
import signal
import sys

sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])


class Fuse:
    """Kills the process at the nth call of `light`."""

    def __init__(self, count):
        self._left = count

    def light(self):
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def arm_files(point, fuse):
    replace, link = os.replace, os.link

    def replace_or_die(source, target):
        is_checkpoint = pathlib.Path(target).name.startswith("step-")
        if is_checkpoint and point == "half a file":
            with open(source, "rb+") as file:
                whole = file.read()
                file.truncate(len(whole) // 2)
                fuse.light()
                file.seek(0)
                file.write(whole)
        if is_checkpoint and point == "before the name":
            fuse.light()
        replace(source, target)
        if is_checkpoint and point == "after the name":
            fuse.light()

    def link_or_die(source, target):
        if point == "before best":
            fuse.light()
        link(source, target)

    os.replace, os.link = replace_or_die, link_or_die


def arm_refresh(fuse):
    """In the graph, after the sets of one weight are selected and before the next."""
    import tensorflow as tf

    from topkast_tf.variables import refresh

    select = refresh.select

    def select_and_light(*arguments):
        found = select(*arguments)
        if not tf.executing_eagerly():
            tf.py_function(fuse.light, [], [])
        return found

    refresh.select = select_and_light


def main(point, count, *arguments):
    fuse = Fuse(int(count))
    if point == "refresh":
        arm_refresh(fuse)
    else:
        arm_files(point, fuse)
    from launch import train

    return train.main(["train.py", *arguments])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
