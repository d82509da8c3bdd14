"""The dataset folder: records, manifest, verification, and the tf.data pipeline that reads it."""
