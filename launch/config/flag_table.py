"""Every flag of `launch/train.py`, in the order of the help."""

from launch.config.data_flags import TEXT, TRAINED
from launch.config.flag import Groups
from launch.config.learning_flags import LENGTH
from launch.config.methods import GROUPS as METHODS
from launch.config.run_flags import DEVICES, RUN

GROUPS: Groups = (TRAINED, TEXT, *METHODS, LENGTH, DEVICES, RUN)
