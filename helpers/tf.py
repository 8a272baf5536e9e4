"""TensorFlow as every module here uses it: `from helpers.tf import tf`.

With tf-keras as `tf.keras` (see `helpers/__init__.py`), and without the lines about missing GPU
libraries that its C++ side prints while it is imported.
"""

from helpers.quiet import quiet_libraries, silent_stderr

with silent_stderr(), quiet_libraries():
    import tensorflow as tf

    tf.config.list_physical_devices()  # the search for GPUs has its own line: let it happen here
tf.get_logger().setLevel("ERROR")  # after the block, which puts the levels back

__all__ = ["tf"]
